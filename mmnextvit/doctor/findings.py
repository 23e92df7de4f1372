"""What the doctor finds, as text and as JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..utils.messages import escape, shorten

# In the order in which they are printed. With an error a training would end, or be of
# no use; with a warning it learns less than it could, or its numbers are too good.
LEVELS = ('error', 'warning', 'note')
MAX_NAMES = 20  # that the JSON has of each finding
MAX_LINES = 3  # that the text has of what a dataset lists
MAX_CHARS = 400  # of a line


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        level: One of `LEVELS`.
        check: The name of what was checked, which stays the same: ``'small_boxes'``.
        title: What is wrong, in a few words.
        seen: What was seen, with the first few names.
        advice: What to do about it.
        split: ``'train'``, ``'val'`` or ``'test'``; empty where it is about the config,
            the machine or several splits.
        count: Of how many images, boxes, classes or files it holds.
        names: The first of these.
    """

    level: str
    check: str
    title: str
    seen: str
    advice: str
    split: str = ''
    count: int = 1
    names: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """It, in types that JSON has."""
        return asdict(self) | {'names': [str(name) for name in self.names][:MAX_NAMES]}


def count_levels(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each level."""
    counts = Counter(finding.level for finding in findings)
    return {level: counts[level] for level in LEVELS}


def plural(count: int, noun: str) -> str:
    """``'1 box'``, ``'2 boxes'``, ``'3 classes'``."""
    ending = '' if count == 1 else 'es' if noun.endswith(('s', 'x')) else 's'
    return f'{count} {noun}{ending}'


def describe_levels(findings: Iterable[Finding]) -> str:
    """``'1 error, 2 warnings, 0 notes'``."""
    counts = count_levels(findings)
    return ', '.join(plural(count, level) for level, count in counts.items())


def format_findings(findings: Sequence[Finding]) -> str:
    """The findings as text, by level, each with what to do about it."""
    blocks = []
    for level in LEVELS:
        of_level = [finding for finding in findings if finding.level == level]
        if of_level:
            blocks.append('\n'.join([f'{level}s', *map(_format_finding, of_level)]))
    return '\n\n'.join(blocks)


def _format_finding(finding: Finding) -> str:
    split = f' ({finding.split})' if finding.split else ''
    lines = finding.seen.splitlines()
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f'... and {len(lines) - MAX_LINES} more lines']
    seen = [f'    {shorten(line.strip(), MAX_CHARS)}' for line in lines]
    title = f'  {escape(finding.title)}{split}'
    return '\n'.join([title, *seen, f'    -> {escape(finding.advice)}'])
