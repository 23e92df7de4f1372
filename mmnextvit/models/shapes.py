"""Which shapes come again and again, for which a GPU may be prepared."""

from collections import Counter
from collections.abc import Hashable

MAX_KNOWN = 1000  # shapes that are counted


class FixedShapes:
    """The first few shapes that come often.

    What prepares a GPU for a shape (a CUDA graph, cuDNN's autotuning) takes as long as
    several passes. So a shape must have come some times before, and there are only so
    many: a folder of images that all differ waits for nothing.

    Args:
        max_shapes: How many there may be.
        after: How often one must have come before.
    """

    def __init__(self, max_shapes: int, after: int) -> None:
        self.max_shapes = max_shapes
        self.after = after
        self._seen: Counter[Hashable] = Counter()
        self._fixed: set[Hashable] = set()

    def is_fixed(self, shape: Hashable) -> bool:
        """Whether a shape, which is counted as one that came, is among them."""
        if shape in self._fixed:
            return True
        if len(self._fixed) >= self.max_shapes:
            return False
        if self._seen[shape] >= self.after:
            self._fixed.add(shape)
            return True
        if len(self._seen) < MAX_KNOWN or shape in self._seen:
            self._seen[shape] += 1
        return False
