"""What the doctor knows of a config, its data and this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..datasets.duplicates import Fingerprint
from ..datasets.faults import Told
from ..datasets.images import BrokenImageError, Size
from ..datasets.samples import Sample
from ..utils.errors import UserError


class Look(NamedTuple):
    """What an image file was seen to be.

    Attributes:
        error: Why it cannot be used, if it cannot.
        remarks: Keys of :data:`~mmnextvit.datasets.images.REMARKS`.
        turned_by_exif: Whether viewers show it turned, while its annotations are of
            it as it is stored.
        fingerprint: By which it is found again, if it is not broken.
    """

    error: BrokenImageError | None = None
    remarks: Sequence[str] = ()
    turned_by_exif: bool = False
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True)
class Part:
    """A dataset of a split; a split may have several.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        title: What its annotations stand in.
        classes: Their names, in the order of the labels.
        samples: Its images, as training would see them.
        told: What the dataset says itself.
        filtered: How many images ``filter_cfg`` leaves out.
        skips_broken: Whether it goes on without images that cannot be used.
    """

    split: str
    title: str
    classes: tuple[str, ...] = ()
    samples: Sequence[Sample] = ()
    told: Sequence[Told] = ()
    filtered: int = 0
    skips_broken: bool = False


class Resizing(NamedTuple):
    """How a pipeline brings an image to the size that the model sees.

    Attributes:
        scale: The size that it fits into, in pixels; or the factors of both sides.
        keep_ratio: Whether width and height get the same factor.
        enlarges: Whether a smaller image is enlarged.
        is_factor: Whether ``scale`` is the factors.
    """

    scale: tuple[float, float]
    keep_ratio: bool = True
    enlarges: bool = True
    is_factor: bool = False

    def compute_factors(self, size: Size) -> tuple[float, float]:
        """The factors by which an image's sides change.

        Args:
            size: Its width and height in pixels.
        """
        if self.is_factor:
            return self.scale
        if self.keep_ratio:
            longs, shorts = (choose(self.scale) / choose(size) for choose in (max, min))
            x = y = min(longs, shorts)
        else:
            x, y = self.scale[0] / size[0], self.scale[1] / size[1]
        return (x, y) if self.enlarges else (min(x, 1.0), min(y, 1.0))


class Anchors(NamedTuple):
    """The anchors of a YOLOv5 head.

    Attributes:
        sizes: (A, 2) widths and heights in pixels.
        threshold: How many times a side may be off for a match.
    """

    sizes: np.ndarray
    threshold: float


class ModelFacts(NamedTuple):
    """What the model was built as.

    Attributes:
        class_counts: ``num_classes`` by the names of the modules in the heads.
        anchors: Of its head, if that matches boxes with anchors as YOLOv5 does.
    """

    class_counts: Mapping[str, int]
    anchors: Anchors | None = None


class Disk(NamedTuple):
    """Where the checkpoints are saved.

    Attributes:
        folder: The folder.
        free: Bytes that are free there.
        needed: Bytes that the checkpoints of the run need, at most at one time.
        checkpoint: Bytes of one.
        checkpoints: How many there are at most at one time.
    """

    folder: Path
    free: int
    needed: int
    checkpoint: int
    checkpoints: int


class Amp(NamedTuple):
    """What ``--amp`` is here.

    Attributes:
        device: ``'cuda'``, ``'cpu'``, ... and what it is.
        fast: Whether it computes faster in mixed precision; ``None`` if unknown.
    """

    device: str
    fast: bool | None


@dataclass(frozen=True)
class Facts:
    """All that the checks judge.

    Attributes:
        parts: The datasets.
        looks: What the images were seen to be, by path and size in the annotations.
        resizing: How images are resized; ``None`` if the pipelines do not say.
        model: What the model was built as; ``None`` if it cannot be built.
        disk: Where the checkpoints go; ``None`` if nowhere, or to no local disk.
        amp: What mixed precision is here.
        faults: What is wrong with the config itself.
    """

    parts: Sequence[Part] = ()
    looks: Mapping[tuple[str, Size], Look] = field(default_factory=dict)
    resizing: Resizing | None = None
    model: ModelFacts | None = None
    disk: Disk | None = None
    amp: Amp | None = None
    faults: Sequence[UserError] = ()

    @cached_property
    def splits(self) -> dict[str, list[Part]]:
        """The datasets by split."""
        splits: dict[str, list[Part]] = {}
        for part in self.parts:
            splits.setdefault(part.split, []).append(part)
        return splits

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """The images by split, of the splits that have any."""
        listed = {
            split: [sample for part in parts for sample in part.samples]
            for split, parts in self.splits.items()
        }
        return {split: samples for split, samples in listed.items() if samples}

    def look_at(self, sample: Sample) -> Look:
        """What an image was seen to be; what was not looked at is sound."""
        return self.looks.get((sample.path, sample.size), Look())

    def find_classes(self, split: str) -> tuple[str, ...]:
        """The names of a split's classes; empty if its data cannot be read."""
        return next((part.classes for part in self.splits[split] if part.classes), ())

    def count_boxes(self, split: str) -> np.ndarray:
        """The boxes of a split by class, (C,)."""
        labels = [sample.labels for sample in self.samples.get(split, [])]
        count = len(self.find_classes(split))
        return np.bincount(np.concatenate([[], *labels]).astype(int), minlength=count)
