"""Training loops that go on at any iteration with the numbers of an unbroken run."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn

from .randomness import (
    PlacedBatches,
    PlacedFetch,
    Stream,
    find_keeping,
    run_seed,
    seed_process,
)

# What takes the place of MMEngine's loops.
RESUMABLE = {
    'EpochBasedTrainLoop': 'ResumableEpochLoop',
    'IterBasedTrainLoop': 'ResumableIterLoop',
}


def resumable(train_cfg: dict) -> dict:
    """The config of a training loop that can go on where it stopped.

    Args:
        train_cfg: Config of any loop; one that is not MMEngine's stays as it is.
    """
    train_cfg = copy.deepcopy(train_cfg)
    if 'type' not in train_cfg:
        by_epoch = train_cfg.pop('by_epoch')
        train_cfg['type'] = f'{"Epoch" if by_epoch else "Iter"}BasedTrainLoop'
    name = getattr(train_cfg['type'], '__name__', train_cfg['type'])
    if name.removeprefix('mmengine.') in RESUMABLE:
        train_cfg['type'] = f'mmengine.{RESUMABLE[name.removeprefix("mmengine.")]}'
    return train_cfg


def with_places(dataloader: dict, endless: bool) -> dict:
    """The config of a data loader whose batches know where in the training they are.

    Args:
        dataloader: Config of any data loader.
        endless: Whether epochs are not told apart.
    """
    batches = dict(
        type=PlacedBatches,
        batches=dataloader.get('batch_sampler'),
        drop_last=dataloader.get('drop_last', False),
        endless=endless,
    )
    others = {key: value for key, value in dataloader.items() if key != 'drop_last'}
    return dict(others, batch_sampler=batches)


class ResumableLoop(BaseLoop):
    """What the loops have in common: random numbers follow from the place.

    Attributes:
        batches_done: How many batches of the epoch are behind.
        end: After how many batches a training ends that ends before its recipe does,
            where each epoch has all of its own.
    """

    batches_done = 0
    end: int | None = None
    dynamic_milestones: list[int]
    _epoch: int
    _iter: int
    _max_iters: int

    @property
    def place(self) -> int:
        """How many batches are behind, where each epoch has all of its own."""
        raise NotImplementedError

    def list_batches(self) -> Iterator[Any]:
        """The batches of the epoch that are to come.

        Where transforms keep images for later ones, those behind are loaded once more.
        """
        dataset = self.dataloader.dataset
        dataset.__getitems__ = PlacedFetch(dataset)
        again = self.batches_done if find_keeping(dataset) else 0
        self.dataloader.batch_sampler.begin(
            run_seed(self.runner), self._epoch, self.batches_done - again
        )
        return islice(iter(self.dataloader), again, None)

    def seed(self, stream: Stream, place: int) -> None:
        """Seeds this process for what comes next."""
        seed_process(run_seed(self.runner), stream, get_rank(), place)

    def is_validation_due(self) -> bool:
        """Whether it is to be validated after what was trained last."""
        raise NotImplementedError


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``, which goes on in the midst of an epoch.

    Args:
        runner: Its runner.
        dataloader: Config of the data loader.
        **kwargs: Arguments of MMEngine's loop.
    """

    def __init__(self, runner: Runner, dataloader: dict, **kwargs: Any) -> None:
        super().__init__(runner, with_places(dataloader, endless=False), **kwargs)

    def run_epoch(self) -> None:
        self.seed(Stream.EPOCH, self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for batch in self.take_batches():
            self.seed(Stream.ITERATION, self._iter)
            self.run_iter(self.batches_done, batch)
            self.batches_done += 1
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.batches_done = 0

    @property
    def place(self) -> int:
        return self._epoch * len(self.dataloader) + self.batches_done

    def take_batches(self) -> Iterator[Any]:
        """The batches of the epoch to its end, or to that of the training.

        They begin anew at their place where a hook has changed the pipeline.
        """
        dataset: Any = self.dataloader.dataset
        changed = True
        while changed:
            changed = False
            pipeline = getattr(dataset, 'pipeline', None)
            for batch in self.list_batches():
                if self.place == self.end:
                    return
                yield batch
                changed = getattr(dataset, 'pipeline', None) is not pipeline
                if changed:
                    break

    def is_validation_due(self) -> bool:
        self._decide_current_val_interval()
        return (
            self.runner.val_loop is not None
            and self.batches_done == 0
            and self._epoch >= max(self.val_begin, 1)
            and (
                self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
            )
        )


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``, which skips what is behind without loading it.

    The epochs of a sampler that ends follow one another without a pause.

    Args:
        runner: Its runner.
        dataloader: Config of the data loader.
        max_iters: As of MMEngine's loop, and so are the others.
        val_begin: The first iteration after which is validated.
        val_interval: Iterations from one validation to the next.
        dynamic_intervals: Pairs of an iteration and the interval from there on.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        # Without MMEngine's constructor, which loads the first images already.
        BaseLoop.__init__(self, runner, with_places(dataloader, endless=True))
        runner.visualizer.dataset_meta = self.dataloader.dataset.metainfo
        self._max_iters = max_iters
        self._max_epochs = 1
        self._epoch = self._iter = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False  # EarlyStoppingHook sets it
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    @property
    def place(self) -> int:
        return self._iter

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self.seed(Stream.EPOCH, self._iter)
        self.runner.call_hook('before_train_epoch')  # all of it is one
        self.batches_done = self._iter
        batches = self.list_batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            batch = next(batches)
            self.seed(Stream.ITERATION, self._iter)
            self.run_iter(batch)
            self.batches_done = self._iter
            if self.is_validation_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def is_validation_due(self) -> bool:
        self._decide_current_val_interval()
        return (
            self.runner.val_loop is not None
            and self._iter >= max(self.val_begin, 1)
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )
