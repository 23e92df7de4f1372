"""Random numbers that follow from where a training is, so that no state is to be kept.

Before each sample and each iteration every generator is seeded with the run's seed and
the place: rank, epoch, batch and so on. A run that goes on at some place draws what it
would have drawn without the interruption, in any process, whatever was drawn before.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset, Sampler, get_worker_info

# MMYOLO's and MMDetection's mosaics mix only once they have kept five images.
IMAGES_TO_KEEP = 5


class Stream(IntEnum):
    """What random numbers are for; equal places of two streams give other numbers."""

    SAMPLE = 0
    ITERATION = 1
    EPOCH = 2
    VALIDATION = 3
    KEPT_IMAGES = 4
    VALIDATION_LOSS = 5


def seed_process(seed: int, stream: Stream, *place: int) -> None:
    """Seeds the generators of Python, NumPy and torch for one place of a training.

    Args:
        seed: The run's seed.
        stream: What is drawn next.
        place: Where in the stream; none of the numbers is negative.
    """
    words = np.random.SeedSequence([seed, stream, *place]).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():  # in workers it never is
        torch.cuda.manual_seed_all(int(words[3]))


@contextmanager
def drawing_apart(seed: int, stream: Stream, *place: int) -> Iterator[None]:
    """Has the block draw its own random numbers, the same ones at each call.

    What is drawn after the block is what would have been drawn without it.

    Args:
        seed: As of :func:`seed_process`, and so are the others.
        stream: What is drawn in the block.
        place: Where in the stream.
    """
    python, numpy = random.getstate(), np.random.get_state()
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with torch.random.fork_rng(range(count)):
        seed_process(seed, stream, *place)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def run_seed(runner: Runner) -> int:
    """The seed of a run, which all its processes share."""
    differs = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - (get_rank() if differs else 0)


class Batch(NamedTuple):
    """The images of one batch, and where in the training it is."""

    seed: int  # of the run
    rank: int
    epoch: int
    number: int  # within the epoch, from 0
    indices: list[int]


class PlacedBatches:
    """The batches of a batch sampler, each with its place in the training.

    Args:
        sampler: Gives the images' indices.
        batch_size: Images in a batch.
        batches: Config of the batch sampler; torch's own if ``None``.
        drop_last: Whether torch's own leaves out a last batch that is not full.
        endless: Whether epoch follows epoch in one stream, all of which counts as
            epoch 0, for loops that count iterations only.

    Attributes:
        seed: Of the run, also for the order of the images.
        epoch: Which epoch comes next.
        start: Number of the first batch that is given: those before it are skipped
            without loading their images.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batches: dict | None = None,
        drop_last: bool = False,
        endless: bool = False,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.endless = endless
        self.seed = self.epoch = self.start = 0
        self._batches = (
            DATA_SAMPLERS.build(
                batches, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
            if batches
            else BatchSampler(sampler, batch_size, drop_last)
        )

    def begin(self, seed: int, epoch: int, start: int) -> None:
        """Says where the next iteration over the batches begins."""
        self.seed, self.epoch, self.start = seed, epoch, start
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = seed

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for number, indices in enumerate(self._list_indices()):
            if number >= self.start:
                yield Batch(self.seed, get_rank(), self.epoch, number, indices)

    def _list_indices(self) -> Iterator[list[int]]:
        epoch = self.epoch
        while True:
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            yield from self._batches
            if not self.endless:
                return
            epoch += 1


class PlacedFetch:
    """Loads the images of a :class:`Batch`, as a dataset's ``__getitems__``.

    Transforms that mix images with some that they have kept keep none beyond the
    epoch: what they have then follows from the epoch and the worker too.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._epoch: int | None = None

    def __call__(self, batch: Batch) -> list[Any]:
        seed, rank, epoch, number, indices = batch
        if epoch != self._epoch:
            self._epoch = epoch
            worker = get_worker_info()
            seed_process(
                *(seed, Stream.KEPT_IMAGES, rank, epoch, worker.id if worker else 0)
            )
            renew_kept_images(self.dataset)
        samples = []
        for place, index in enumerate(indices):
            seed_process(seed, Stream.SAMPLE, rank, epoch, number, place)
            samples.append(self.dataset[index])
        return samples


def renew_kept_images(dataset: Dataset) -> None:
    """Gives transforms that keep images a few others in the place of all."""
    keeping = find_keeping(dataset)
    for transform in keeping:
        transform.results_cache = []
    if keeping:
        for index in random.choices(range(len(dataset)), k=IMAGES_TO_KEEP):
            dataset[index]


def find_keeping(dataset: Dataset) -> list:
    """The transforms of a dataset, or of those within, that keep images."""
    return [*dict.fromkeys(_walk_keeping(dataset))]


def _walk_keeping(part: object) -> Iterator:
    if isinstance(part, (list, tuple)):
        for inner in part:
            yield from _walk_keeping(inner)
        return
    # MMYOLO's keep some if they are told to, MMDetection's always do.
    if getattr(part, 'use_cached', hasattr(part, 'results_cache')):
        yield part
    for name in ('datasets', 'dataset', 'pipeline', 'transforms', 'pre_transform'):
        yield from _walk_keeping(getattr(part, name, ()))
