"""The scores that detections must have."""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from .errors import OptionError
from .metadata import BestScores

BEST = 'best'  # in place of a minimum score: the one with the highest F1
Threshold = float | str  # a minimum score, 0 to 1, or BEST
MinScores = float | list[float]  # a minimum score, or one for each label


def find_thresholds(
    score_thr: Threshold, best_scores: BestScores | None, classes: Sequence[str]
) -> MinScores:
    """The minimum score of all labels, or that of each.

    Args:
        score_thr: A number from 0 to 1, or 'best' for each class's best score, and
            that of all for a class without one.
        best_scores: What a file has of them.
        classes: Names of the labels.

    Raises:
        OptionError: It is neither, or the file has no best scores.
    """
    if score_thr == BEST:
        best = list_best_scores(best_scores, classes)
        if best is None:
            raise OptionError(
                "score_thr='best' (--score-thr): the file has no best scores. The best "
                'checkpoint of a training has them, mmnextvit report writes them into '
                'another one, and mmnextvit export takes them along'
            )
        return [best[name] for name in classes]
    value = float(score_thr) if isinstance(score_thr, Real) else float('nan')
    if not 0 <= value <= 1:
        raise OptionError(
            f'score_thr={score_thr!r} (--score-thr): it is a number from 0 to 1, or '
            "'best'"
        )
    return value


def list_best_scores(
    best_scores: BestScores | None, classes: Sequence[str]
) -> dict[str, float] | None:
    """The minimum score of each class that 'best' stands for, by name.

    Args:
        best_scores: What a file has of them, if any.
        classes: Names of the labels.
    """
    if best_scores is None:
        return None
    own, other = best_scores['classes'], best_scores['all']
    return {name: own.get(name, other) for name in classes}


def are_high(
    scores: np.ndarray, labels: np.ndarray, thresholds: MinScores
) -> np.ndarray:
    """(N,): which scores are at least the minimum, both in single precision.

    Args:
        scores: (N,).
        labels: (N,).
        thresholds: As of :func:`find_thresholds`.
    """
    lowest = np.float32(thresholds)
    return np.float32(scores) >= (lowest[labels] if lowest.ndim else lowest)
