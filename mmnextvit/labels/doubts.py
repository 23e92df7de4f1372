"""How much a model doubts what it finds in an image, to look first where it does."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..utils.messages import escape

COLUMNS = 'file', 'frame', 'doubt', 'reason'
SHOWN = 3  # objects that a reason names


class Doubt(NamedTuple):
    """How much a model doubts what it finds in an image.

    Attributes:
        doubt: The sum over its boxes, in bits.
        reason: Which boxes these are, in words.
    """

    doubt: float
    reason: str


def measure_doubts(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How much each box is in doubt, in bits: from 1 at its threshold down to 0.81.

    A score is no probability. What it decides is whether a box is drawn and labelled,
    and that turns at the threshold. So the scores below it are stretched over 0 to a
    half and those above over a half to 1, of which the binary entropy is taken. Only
    the middle half counts: scores from half the threshold to halfway between it and 1.
    Of the others, which would change with no small change of the threshold, a YOLO
    detector gives hundreds in each image.

    Args:
        scores: (N,), 0 to 1.
        thresholds: (N,), that of each box's class.

    Returns:
        (N,), 0 for a box that is in no doubt.
    """
    below = scores < thresholds
    widths = np.where(below, thresholds, np.maximum(1 - thresholds, 1e-9))
    shares = 0.5 + 0.5 * (scores - thresholds) / widths
    certain = (shares < 0.25) | (shares > 0.75)
    shares = np.where(certain, 0.5, shares)
    entropies = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares))
    return np.where(certain, 0, entropies)


def describe_doubt(
    names: Sequence[str], scores: np.ndarray, thresholds: np.ndarray
) -> Doubt:
    """The doubt of an image, the sum over its boxes.

    Args:
        names: The class of each box.
        scores: (N,).
        thresholds: (N,).
    """
    doubts = measure_doubts(scores, thresholds)
    order = [i for i in np.argsort(-doubts, kind='stable').tolist() if doubts[i]]
    if not order:
        return Doubt(0.0, 'no box near the threshold')
    shown = ', '.join(f'{names[i]} {scores[i]:.2f}' for i in order[:SHOWN])
    rest = f' and {len(order) - SHOWN} more' if len(order) > SHOWN else ''
    boxes = '1 box' if len(order) == 1 else f'{len(order)} boxes'
    reason = f'{boxes} {_describe_range(thresholds)}: {shown}{rest}'
    return Doubt(round(float(doubts.sum()), 3), reason)


def _describe_range(thresholds: np.ndarray) -> str:
    low, high = thresholds.min(), thresholds.max()
    if low < high:
        return 'near the thresholds of their classes'
    return f'between {low / 2:.2f} and {(1 + low) / 2:.2f}'


def format_doubts(entries: Iterable[Mapping[str, Any]]) -> str:
    """A CSV table of the images and frames, what the model doubts most first.

    Args:
        entries: Of ``predictions.json``; each is used once, and its objects not kept.
    """
    rows: list[tuple[Any, ...]] = [
        (escape(e['file']), e.get('frame', ''), e['doubt'], e['reason'])
        for e in entries
    ]
    rows.sort(key=lambda row: -row[2])
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(COLUMNS)
    table.writerows(rows)
    return text.getvalue()
