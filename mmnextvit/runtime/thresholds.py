"""The scores that detections must have."""

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from .errors import OptionError
from .metadata import BestScores

BEST = 'best'  # in place of a minimum score: the one with the highest F1
# A minimum score, 0 to 1, or BEST, or the score of each class by its name
Threshold = float | str | Mapping[str, float]
MinScores = float | list[float]  # a minimum score, or one for each label


def find_thresholds(
    score_thr: Threshold, best_scores: BestScores | None, classes: Sequence[str]
) -> MinScores:
    """The minimum score of all labels, or that of each.

    Args:
        score_thr: A number from 0 to 1, or 'best' for each class's best score, and
            that of all for a class without one; or the score of each class by name.
        best_scores: What a file has of them.
        classes: Names of the labels.

    Raises:
        OptionError: It is none of these, or the file has no best scores.
    """
    if isinstance(score_thr, Mapping):
        return find_by_class(score_thr, classes)
    if score_thr == BEST:
        best = list_best_scores(best_scores, classes)
        if best is None:
            raise OptionError(
                "score_thr='best' (--score-thr): the file has no best scores. The best "
                'checkpoint of a training has them, mmnextvit report writes them into '
                'another one, and mmnextvit export takes them along'
            )
        return [best[name] for name in classes]
    if not is_score(score_thr):
        raise OptionError(
            f'score_thr={score_thr!r} (--score-thr): it is a number from 0 to 1, or '
            "'best'"
        )
    return float(score_thr)


def find_by_class(scores: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """The minimum score of each label.

    Args:
        scores: By the name of the class.
        classes: Names of the labels.

    Raises:
        OptionError: A class has none, or none from 0 to 1, or there is no such class.
    """
    for name in sorted(scores.keys() ^ {*classes}, key=str):
        problem = 'is no class of the file' if name in scores else 'has no score in it'
        raise OptionError(
            f'score_thr={{...}}: {name!r} {problem}. It has the score of each class '
            'by name, as in {**detector.best_scores, ...}'
        )
    for name in classes:
        if not is_score(scores[name]):
            raise OptionError(
                f'score_thr={{...}}: that of {name!r} is {scores[name]!r}, and must be '
                'a number from 0 to 1'
            )
    return [float(scores[name]) for name in classes]


def is_score(value: object) -> bool:
    """Whether this is a number from 0 to 1."""
    return isinstance(value, Real) and 0 <= float(value) <= 1


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
