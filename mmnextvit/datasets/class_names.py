"""The names that annotations give their boxes, against the classes of a config."""

from collections.abc import Mapping, Sequence

from ..utils.errors import UserError
from ..utils.messages import first_few
from .checks import describe_counts, write_classes


def compare_names(
    counts: Mapping[str, int], classes: Sequence[str], ann_file: str
) -> list[str]:
    """What there is to tell of names and classes that differ.

    A class that is never met is an error where unknown names are met: it is misspelt,
    most likely. Otherwise a small validation set may lack it.

    Args:
        counts: How many boxes have each name.
        classes: The config's.
        ann_file: The annotations.

    Raises:
        UserError: What to write.
    """
    unmet = [name for name in classes if name not in counts]
    unknown = {name: n for name, n in counts.items() if name not in classes}
    if unmet and unknown:
        raise UserError(
            f'the annotations never name the class {first_few(map(repr, unmet))} of '
            f'the config, but they name {describe_counts(unknown)}: write '
            f'{write_classes(sorted(counts))}',
            file=ann_file,
        )
    if unmet:
        return [f'{ann_file}: no box of the class {first_few(map(repr, unmet))}']
    if unknown:
        return [
            f'{ann_file}: boxes whose names are no classes of the config are ignored: '
            f'{describe_counts(unknown)}'
        ]
    return []
