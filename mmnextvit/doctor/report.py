"""What the doctor has looked at and found, as text and as one JSON document."""

import json
from collections.abc import Sequence
from typing import Any

from ..utils.messages import escape, first_few
from .checks import compute_possible_recall, show_bytes
from .facts import Facts
from .findings import (
    Finding,
    count_levels,
    describe_levels,
    format_findings,
    plural,
)

MAX_CLASSES = 8  # whose boxes the text counts, for each split


def count_split(facts: Facts, split: str) -> dict[str, Any]:
    """Images and boxes of a split, in types that JSON has."""
    samples = facts.samples.get(split, [])
    counts = facts.count_boxes(split).tolist()
    return dict(
        images=len(samples),
        images_without_boxes=sum(not len(sample.labels) for sample in samples),
        boxes=sum(counts),
        boxes_by_class=dict(zip(facts.find_classes(split), counts)),
    )


def describe_split(facts: Facts, split: str) -> str:
    """``'train: 205 images (2 without a box), 2903 boxes: RBC 2469, WBC 217'``."""
    counts = count_split(facts, split)
    empty = counts['images_without_boxes']
    by_class = sorted(counts['boxes_by_class'].items(), key=lambda item: -item[1])
    names = first_few((f'{name} {number}' for name, number in by_class), MAX_CLASSES)
    return (
        f'{split}: {plural(counts["images"], "image")}'
        + (f' ({empty} without a box)' if empty else '')
        + f', {plural(counts["boxes"], "box")}'
        + (f': {names}' if names else '')
    )


def describe_facts(facts: Facts) -> list[str]:
    """What was looked at, a line each."""
    lines = [describe_split(facts, split) for split in facts.splits]
    recall = compute_possible_recall(facts)
    if recall is not None:
        lines.append(f'anchors: best possible recall {recall:.2%}')
    disk = facts.disk
    if disk:
        lines.append(
            f'checkpoints: up to {disk.checkpoints}, {show_bytes(disk.needed)} of '
            f'{show_bytes(disk.free)} free in {disk.folder}'
        )
    if facts.amp and facts.amp.fast is not None:
        answer = 'fast' if facts.amp.fast else 'not fast'
        lines.append(f'--amp: {answer} here ({facts.amp.device})')
    return [escape(line) for line in lines]


def format_report(config: str, facts: Facts, findings: Sequence[Finding]) -> str:
    """The report as text: counts first, then the findings by level."""
    result = describe_levels(findings) if findings else 'nothing to mend'
    first = '\n'.join([escape(f'{config}: {result}'), *describe_facts(facts)])
    return '\n\n'.join(filter(None, [first, format_findings(findings)]))


def format_json(config: str, facts: Facts, findings: Sequence[Finding]) -> str:
    """The report as one JSON document."""
    disk, amp = facts.disk, facts.amp
    document = dict(
        config=config,
        counts=count_levels(findings),
        findings=[finding.as_dict() for finding in findings],
        splits={split: count_split(facts, split) for split in facts.splits},
        image_size=list(facts.resizing.scale)
        if facts.resizing and not facts.resizing.is_factor
        else None,
        best_possible_recall=compute_possible_recall(facts),
        disk=disk and dict(disk._asdict(), folder=str(disk.folder)),
        amp=amp and amp._asdict(),
    )
    return json.dumps(document, indent=2)
