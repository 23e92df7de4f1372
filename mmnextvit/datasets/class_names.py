"""The names that annotations give their boxes, against the classes of a config."""

from collections.abc import Callable, Mapping, Sequence

from ..utils.errors import UserError
from ..utils.messages import first_few
from .checks import describe_counts, write_classes
from .faults import warn


def check_names(
    counts: Mapping[str, int],
    classes: Sequence[str],
    ann_file: str,
    leave_out_known: Callable[[Sequence[str]], Sequence[str]] = lambda names: names,
) -> None:
    """Warns of names and classes that differ.

    A class that is never met is an error where unknown names are met: it is misspelt,
    most likely. Otherwise a small validation set may lack it.

    Args:
        counts: How many boxes have each name.
        classes: The config's.
        ann_file: The annotations.
        leave_out_known: Those of some names that images which are not used do not have
            either. It is asked only where that decides.

    Raises:
        UserError: What to write.
    """
    unmet = [name for name in classes if name not in counts]
    unknown = {name: n for name, n in counts.items() if name not in classes}
    wrong = leave_out_known(unmet) if unmet and unknown else []
    if wrong:
        raise UserError(
            f'the annotations never name the class {first_few(map(repr, wrong))} of '
            f'the config, but they name {describe_counts(unknown)}: write '
            f'{write_classes(sorted(counts))}',
            file=ann_file,
        )
    if unmet:
        names = first_few(map(repr, unmet))
        warn(f'{ann_file}: no box of the class {names}', 'absent', unmet)
    if unknown:
        warn(
            f'{ann_file}: boxes whose names are no classes of the config are ignored: '
            f'{describe_counts(unknown)}'
        )
