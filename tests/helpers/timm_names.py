"""NextViT's parameters under timm's names."""

import re


def timm_names(state: dict, depths: tuple[int, ...]) -> dict:
    """Official names to those of timm's ``features_only`` model."""
    starts = [sum(depths[:i]) for i in range(4)]

    def block(match: re.Match) -> str:
        i = int(match[1])
        stage = max(s for s in range(4) if starts[s] <= i)
        return f'stages_{stage}.blocks.{i - starts[stage]}.'

    renamed = {}
    for name, value in state.items():
        name = re.sub(r'^features\.(\d+)\.', block, name)
        name = re.sub(r'^stem\.', 'stem_', name)
        name = name.replace('mlp.conv1', 'mlp.fc1').replace('mlp.conv2', 'mlp.fc2')
        renamed[name] = value
    return renamed
