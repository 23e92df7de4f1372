"""What is said about modules of YOLOv5's YAML rows that nobody has registered."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from ..utils.messages import first_few, shorten

PAGE = 'docs/custom_modules.md'
MIN_WORD = 4  # letters of a name in which a slip of one is told from another name

# Modules that YAMLs of forks often name, of which no definition is settled.
UNSETTLED = {
    'ASFF_Detect': 'a head of a fork; of heads, Detect and Segment are read',
    'Decoupled_Detect': 'a head of a fork; of heads, Detect and Segment are read',
    'C3STR': "its window and its weights' names differ from fork to fork",
    'Concat_bifpn': 'its activation differs from fork to fork',
}


def describe_unknown(
    places: Mapping[str, Sequence[str]], known: Iterable[str], listed: Iterable[str]
) -> str:
    """All unknown modules, each with its rows, and how to register one.

    Args:
        places: Their rows, as text, by name.
        known: The names that may be meant.
        listed: Those of them that are listed.
    """
    known = sorted(known)
    parts = []
    for name, rows in places.items():
        reason = UNSETTLED.get(name)
        meant = None if reason else find_misspelt(name, known)
        hint = f': did you mean {meant}?' if meant else f': {reason}' if reason else ''
        word = 'rows' if len(rows) > 1 else 'row'
        parts.append(f'{shorten(name, 50)} ({word} {first_few(rows, 20)}){hint}')
    title = 'unknown module' + ('s' if len(parts) > 1 else '')
    return (
        f'{title} {"; ".join(parts)}. A module of your own becomes a row by '
        f'@register_row() in a file of yours: see {PAGE}. The known ones are '
        f'{sorted(listed)}.'
    )


def find_misspelt(name: str, known: Iterable[str]) -> str | None:
    """The known name of which another is a slip of the pen, if there is one.

    That is one that differs in case, in ``_``, in a doubled letter, or in a small
    letter of a word. ``C3STR`` is no slip for ``C3TR``, nor ``PConv`` for ``Conv``:
    those are other modules.
    """
    name = name[:50]
    known = list(known)
    slips = (
        lambda one: _simplify(one) == _simplify(name),
        lambda one: _is_near(one, name),
    )
    return next((one for is_slip in slips for one in known if is_slip(one)), None)


def _simplify(name: str) -> str:
    """A name without what one does not see at a glance."""
    plain = name.removeprefix('nn.').replace('_', '').replace('-', '').casefold()
    return re.sub(r'([a-z])\1+', r'\1', plain)


def _is_near(known: str, name: str) -> bool:
    """Whether one small letter is missing, too many, another, or changed places.

    In names all in small letters, as timm's, a digit counts too.
    """
    if min(len(known), len(name)) < MIN_WORD - 1 or len(known) < MIN_WORD:
        return False
    start = _count_common(known, name)
    end = _count_common(known[start:][::-1], name[start:][::-1])
    a, b = known[start : len(known) - end], name[start : len(name) - end]
    if not (max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])):
        return False
    small = (known + name).replace('.', '').islower()
    return all(x.islower() or (small and x.isdigit()) for x in a + b)


def _count_common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return len(os.path.commonprefix([one, other]))
