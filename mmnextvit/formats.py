"""State dicts of other programs under our names, and back.

One pure function a direction and format, by name and never by order. Under our names a
backbone's entries begin with ``backbone.``, as in a whole detector's state dict.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from .nextvit import ARCHS

State = dict[str, Tensor]

# Modules of the patched YOLOv5's rows 5 to 19, then its head, as in
# configs/yolov5_nextvit_s.py; which file has others is told by its classes.
TOP_DOWN, BOTTOM_UP = ('Conv', 'nn.Upsample', 'Concat', 'C3'), ('Conv', 'Concat', 'C3')
YOLOV5_KINDS = dict(
    enumerate(('SPPF', *TOP_DOWN * 2, *BOTTOM_UP * 2, 'Detect'), start=5)
)
HEAD = 'bbox_head.head_module.convs_pred'
TIMM_BLOCK = re.compile(r'^stages[._](\d+)\.blocks\.(\d+)\.')


def kinds_of_rows(rows: Sequence[Sequence]) -> dict[int, str]:
    """Module names by row number, for a neck's rows and the head behind them."""
    kinds = {number: row[2] for number, row in enumerate(rows, start=5)}
    return {**kinds, 5 + len(rows): 'Detect'}


def from_official(state: Mapping[str, Tensor]) -> State:
    """The official classification release; its classifier is left out."""
    return {
        f'backbone.{name}': value
        for name, value in state.items()
        if not name.startswith('proj_head.')
    }


def backbone_of(state: Mapping[str, Tensor]) -> State:
    """The backbone's entries without ``backbone.``, which are the official names."""
    return {
        name.removeprefix('backbone.'): value
        for name, value in state.items()
        if name.startswith('backbone.')
    }


def from_timm(state: Mapping[str, Tensor]) -> State:
    """timm's names, of the classifier (left out) or of ``features_only``."""
    blocks = [TIMM_BLOCK.match(name) for name in state]
    depths = {}
    for match in filter(None, blocks):
        stage, block = int(match[1]), int(match[2])
        depths[stage] = max(depths.get(stage, 0), block + 1)
    starts = {s: sum(depths.get(t, 0) for t in range(s)) for s in depths}

    def rename(name: str) -> str:
        name = TIMM_BLOCK.sub(
            lambda m: f'features.{starts[int(m[1])] + int(m[2])}.', name
        )
        name = re.sub(r'^stem_', 'stem.', name)
        name = re.sub(r'\bmlp\.fc([12])\.', r'mlp.conv\1.', name)
        return f'backbone.{name}'

    return {rename(k): v for k, v in state.items() if not k.startswith('head.')}


def to_timm(state: Mapping[str, Tensor]) -> State:
    """The backbone under the names of timm's classifier.

    Raises:
        ValueError: The number of blocks is that of no published arch, so that nothing
            tells where a stage begins.
    """
    backbone = backbone_of(state)
    numbers = {int(n.split('.')[1]) for n in backbone if n.startswith('features.')}
    starts = stage_starts(len(numbers))

    def rename(name: str) -> str:
        if name.startswith('features.'):
            _, number, rest = name.split('.', 2)
            stage = max(s for s, start in enumerate(starts) if start <= int(number))
            name = f'stages.{stage}.blocks.{int(number) - starts[stage]}.{rest}'
        return re.sub(r'\bmlp\.conv([12])\.', r'mlp.fc\1.', name)

    return {rename(k): v for k, v in backbone.items()}


def stage_starts(blocks: int) -> list[int]:
    """Index of each stage's first block in a backbone of so many blocks."""
    depths = [{**ARCHS['small'], **arch}['depths'] for arch in ARCHS.values()]
    for depth in depths:
        ends = [sum(depth[: i + 1]) for i in range(4)]
        if blocks in ends:
            return [0, *ends[: ends.index(blocks)]]
    raise ValueError(
        f'a backbone of {blocks} blocks is none of {sorted(ARCHS)}: its stages are '
        'unknown'
    )


def from_yolov5(
    state: Mapping[str, Tensor], kinds: Mapping[int, str] = YOLOV5_KINDS
) -> State:
    """The patched YOLOv5's names: backbone, neck and head.

    Args:
        state: Entries ``model.{module}.…``; module 0 is the backbone, module k is row
            k + 4. Anchors and strides are left out: a config has them.
        kinds: The rows' modules by row number.
    """
    converted = {}
    for name, value in state.items():
        _, module, rest = name.split('.', 2)
        row = int(module) + 4
        if row == 4:
            converted[f'backbone.{rest}'] = value
        elif kinds.get(row) == 'Detect':
            if rest.startswith('m.'):
                converted[f'{HEAD}.{rest[2:]}'] = value
        else:
            parts = renamed(rest, kinds.get(row), to_yolov5=False)
            converted[f'neck.rows.{row}.{parts}'] = value
    return converted


def to_yolov5(
    state: Mapping[str, Tensor], kinds: Mapping[int, str] = YOLOV5_KINDS
) -> State:
    """Ours under the names of the patched YOLOv5's ``state_dict``, without anchors."""
    detect = max(kinds) - 4
    converted = {}
    for name, value in state.items():
        if name.startswith('backbone.'):
            name = f'model.0.{name[9:]}'
        elif name.startswith('neck.rows.'):
            row, rest = name.removeprefix('neck.rows.').split('.', 1)
            parts = renamed(rest, kinds[int(row)], to_yolov5=True)
            name = f'model.{int(row) - 4}.{parts}'
        elif name.startswith(HEAD):
            name = f'model.{detect}.m{name[len(HEAD) :]}'
        converted[name] = value
    return converted


def renamed(name: str, kind: str | None, to_yolov5: bool) -> str:
    """A parameter's name inside a row's module, by the table of that module."""
    from .yolov5_yaml import ROW_MODULES  # needs MMYOLO, as a neck does

    if kind not in ROW_MODULES:
        raise ValueError(f'{name} belongs to a {kind}, which the rows do not know')
    names = ROW_MODULES[kind].yolov5_names
    parts = name.split('.')
    if to_yolov5:
        return '.'.join(names.get(part, part) for part in parts)
    # Inside a C3's blocks cv1 is another convolution than in the C3 itself.
    inner = parts[0] in ('m', 'blocks')
    back = {}
    for ours, theirs in names.items():
        if theirs not in back or inner == ours.startswith('conv'):
            back[theirs] = ours
    return '.'.join(back.get(part, part) for part in parts)


@dataclass(frozen=True)
class Format:
    """One layout of names.

    Args:
        title: What a receipt calls it.
        matches: Whether names are of this layout.
        to_ours: State dict of this layout to ours.
        from_ours: And back.
    """

    title: str
    matches: Callable[[set[str]], bool]
    to_ours: Callable[[Mapping[str, Tensor]], State]
    from_ours: Callable[[Mapping[str, Tensor]], State]


def _begins(*prefixes: str) -> Callable[[set[str]], bool]:
    return lambda names: all(any(n.startswith(p) for n in names) for p in prefixes)


def formats(kinds: Mapping[int, str] = YOLOV5_KINDS) -> dict[str, Format]:
    """The layouts, in the order in which they are tried.

    Args:
        kinds: The modules of a YOLOv5 file's rows, by row number.
    """
    return {
        'yolov5': Format(
            'patched YOLOv5',
            _begins('model.0.stem.'),
            partial(from_yolov5, kinds=kinds),
            partial(to_yolov5, kinds=kinds),
        ),
        'ours': Format('mmnextvit', _begins('backbone.'), dict, dict),
        'official': Format(
            'official', _begins('stem.0.', 'features.'), from_official, backbone_of
        ),
        'timm': Format('timm', _begins('stem', 'stages'), from_timm, to_timm),
    }


FORMATS = formats()


def recognised(names: set[str]) -> str:
    """Which of :data:`FORMATS` names are of.

    Raises:
        ValueError: None of them.
    """
    for key, layout in FORMATS.items():
        if layout.matches(names):
            return key
    raise ValueError(
        f'the names are of no known layout ({", ".join(FORMATS)}); they begin '
        f'{sorted(names)[:3]}'
    )
