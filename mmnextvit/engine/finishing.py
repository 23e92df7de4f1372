"""The last phase of a training that ends before its recipe does.

Where the metric has stopped getting better, or the time is nearly over, the learning
rate goes from where it is to the end of the recipe's schedule. So what is kept is a
finished model, and not one that a high rate still shakes. A fifth of what was trained
is long enough for that: Hägele et al., "Scaling Laws and Compute-Optimal Training
Beyond Fixed Training Durations" (2024), find little more to be had beyond it.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..utils.errors import UserError, naming_file
from .loops import ResumableLoop
from .state_checks import is_count, is_number

SHARE = 0.2  # of the batches that were trained
MAX_EPOCHS = 20  # of the last phase
# Before so much of the time has passed, a batch may seem slow since the first ones are.
MIN_TIME = 0.05
LAST_FACTOR = 0.01  # of rates for which the recipe has no schedule
HOUR = 3600  # seconds


@dataclass(frozen=True)
class Phase:
    """The last phase of a training.

    Attributes:
        begin: Batches that were trained before it, where each epoch has all of its own.
        end: Batches after which the training ends.
        epoch_length: Batches of an epoch.
        iteration: The number of the first iteration.
        first_rates: Learning rates that it begins from, by the optimizer's groups.
        last_rates: Those that it ends with.
    """

    begin: int
    end: int
    epoch_length: int
    iteration: int
    first_rates: list[float]
    last_rates: list[float]

    def compute_rates(self, place: int) -> list[float]:
        """The rates of a batch.

        Args:
            place: Batches before it.
        """
        done = min((place + 1 - self.begin) / (self.end - self.begin), 1)
        pairs = zip(self.first_rates, self.last_rates, strict=True)
        return [first + (last - first) * done for first, last in pairs]

    def with_epochs_of(self, length: int) -> 'Phase':
        """The same phase where an epoch has another number of batches."""
        if length == self.epoch_length:
            return self
        begin, end = (
            round(place * length / self.epoch_length)
            for place in (self.begin, self.end)
        )
        return replace(self, begin=begin, end=max(end, begin + 1), epoch_length=length)


@dataclass(frozen=True)
class Account:
    """What a checkpoint says of the time and the metric of its run, as plain data.

    Attributes:
        patience: Epochs without a better metric after which the last phase begins.
        hours: The time of the whole training.
        seconds: The time that is used, with that of validations.
        batches: What was trained in that time.
        val_seconds: The time of validations.
        validations: How many these were.
        best: The best metric so far.
        best_epoch: Epochs that had been trained then.
        judged: The iteration after which the last validation was.
        phase: The last phase, once it has begun.
    """

    patience: int | None = None
    hours: float | None = None
    seconds: float = 0.0
    batches: int = 0
    val_seconds: float = 0.0
    validations: int = 0
    best: float | None = None
    best_epoch: float = 0.0
    judged: int = 0
    phase: Phase | None = None


@HOOKS.register_module()
class FinishHook(Hook):
    """Begins the last phase where the metric or the time asks for it.

    In the phase the learning rates go in a straight line to those with which the
    recipe's schedule ends. What the recipe does in its last epochs, as to train without
    mosaics and to validate more often, it does at the end of the phase.

    The metric is that of ``save_best``, else the first that the evaluator gives. Scores
    of nothing found yet, which are 0, do not count as a stop. With ``hours``, the phase
    begins when the time that is left just suffices for it and for its validations,
    counted by the mean times so far.

    Args:
        patience: Epochs without a better metric.
        hours: The time of the training, over all resumptions.
        clock: Gives seconds.

    Raises:
        UserError: They cannot be, or the training is none that they suit.
    """

    # After MMYOLO's schedule, which has 9 too and is registered before, and before the
    # rate is logged, with 10.
    priority = 9

    def __init__(
        self,
        patience: int | None = None,
        hours: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if patience is not None and not (is_count(patience) and patience >= 1):
            raise UserError(
                f'patience={patience} (--patience) must be a whole number of epochs, '
                'from 1 on'
            )
        if hours is not None and not (is_number(hours) and hours > 0):
            raise UserError(
                f'hours={hours} (--hours) must be a number above 0, as in 0.5'
            )
        self.account = Account(patience, hours)
        self._given = {'patience': patience, 'hours': hours}
        self._clock = clock
        self._started = self._val_started = clock()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        content = checkpoint['meta'].get('finish') if runner._resume else None
        if content is None:
            return
        with naming_file(runner._load_from):
            before = read_account(content)
        changes: dict[str, Any] = {
            name: value
            for name, value in self._given.items()
            if value not in (None, getattr(before, name))
        }
        for name, value in changes.items():
            if before.phase is not None:
                text = 'changes nothing, since the last phase has begun'
            else:
                old = getattr(before, name)
                text = f'holds from here on, in the place of {old or "none"}'
            runner.logger.warning(f'--{name} {value:g} {text}')
        self.account = replace(before, **changes)

    def before_train(self, runner: Runner) -> None:
        self._started = self._clock()
        phase = self.account.phase
        if phase is None and not (self.account.patience or self.account.hours):
            return
        check_training(runner, self.account.patience is not None)
        if phase is not None:
            phase = phase.with_epochs_of(len(runner.train_loop.dataloader))
            self.account = replace(self.account, phase=phase)
            shorten_training(runner, phase)
            runner.logger.info(
                'The last phase of the training, which had begun, ends after '
                f'{runner.train_loop.max_iters} iterations'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if self.account.phase is not None:
            rates = self.account.phase.compute_rates(runner.train_loop.place)
            groups = list_groups(runner)
            for group, rate in zip(groups, rates, strict=True):
                group['lr'] = rate

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        self.account = replace(self.account, batches=self.account.batches + 1)
        if self.account.hours is not None and self.account.phase is None:
            place = runner.train_loop.place + 1
            times = self._measure_times(runner)
            if place < count_all_batches(runner) and times.is_due(place):
                self._begin(
                    runner,
                    place,
                    runner.iter + 1,
                    times.fit(plan_length(place, times.epoch_length)),
                    f'{times.left / HOUR:.3g} of {self.account.hours:g} hours are left',
                )

    def before_val(self, runner: Runner) -> None:
        self._val_started = self._clock()

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        account = self.account
        self.account = account = replace(
            account,
            val_seconds=account.val_seconds + self._clock() - self._val_started,
            validations=account.validations + 1,
        )
        loop = runner._train_loop
        if not isinstance(loop, ResumableLoop):
            return
        length = len(loop.dataloader)
        epoch = loop.place / length
        self.account = account = replace(account, judged=runner.iter)
        if account.patience is None or account.phase is not None or not metrics:
            return
        key, is_better = find_monitor(runner, metrics)
        score = float(metrics[key])
        if is_better(score, account.best):
            self.account = replace(account, best=score, best_epoch=epoch)
            return
        waited = epoch - account.best_epoch
        batches = math.ceil(max(plan_length(loop.place, length) / length, 1)) * length
        if account.hours is not None:
            batches = self._measure_times(runner).fit(batches)
        if waited < account.patience or (
            loop.place + batches >= count_all_batches(runner)
        ):  # the recipe itself ends as soon
            return
        best = (
            'it was never a number' if account.best is None else f'{account.best:.4f}'
        )
        self._begin(
            runner,
            loop.place,
            runner.iter,
            batches,
            f'{key} has not got better for {waited:g} epochs (best: {best})',
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' in checkpoint:
            account = replace(self.account, seconds=self._count_seconds())
            checkpoint['meta']['finish'] = asdict(account)

    def after_train(self, runner: Runner) -> None:
        if self.account.phase is not None:
            runner.logger.info(
                f'The training has ended with its last phase, after {runner.iter} '
                f'iterations and {self._count_seconds() / HOUR:.3g} hours'
            )

    def _count_seconds(self) -> float:
        return self.account.seconds + self._clock() - self._started

    def _measure_times(self, runner: Runner) -> 'Times':
        """The mean times so far, which are the same on all processes."""
        account = self.account
        seconds = [self._count_seconds(), account.val_seconds]
        if get_world_size() > 1:
            device = next(runner.model.parameters()).device
            shared = torch.tensor(seconds, dtype=torch.float64, device=device)
            broadcast(shared)
            seconds = shared.tolist()
        used, validating = seconds
        batch = (used - validating) / max(account.batches, 1)
        validation = 0.0
        if runner.val_loop is not None:
            sampler = runner.train_dataloader.batch_sampler
            images = len(runner.val_dataloader.dataset) / sampler.batch_size
            # Before the first one: as if these images were trained.
            validation = batch * images / get_world_size()
            if account.validations:
                validation = validating / account.validations
        loop = runner.train_loop
        interval = loop.dynamic_intervals[-1]
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        return Times(
            whole=(account.hours or math.inf) * HOUR,
            used=used,
            batch=batch,
            validation=validation,
            interval=interval * (len(loop.dataloader) if by_epoch else 1),
            epoch_length=len(loop.dataloader),
            batches=count_all_batches(runner),
        )

    def _begin(
        self, runner: Runner, place: int, iteration: int, batches: int, reason: str
    ) -> None:
        first = [float(group['lr']) for group in list_groups(runner)]
        last = [min(pair) for pair in zip(first, find_last_rates(runner), strict=True)]
        phase = Phase(
            place,
            place + batches,
            len(runner.train_loop.dataloader),
            iteration,
            first,
            last,
        )
        self.account = replace(self.account, phase=phase)
        runner.logger.info(
            f'The last phase begins after {iteration} iterations, since {reason}: in '
            f'{batches} iterations the learning rate goes from {max(first):.3g} to '
            f'{max(last):.3g}, and the training ends'
        )
        shorten_training(runner, phase)
        if place % phase.epoch_length:  # in the midst of an epoch
            for hook in list_switches(runner):
                hook.before_train_epoch(runner)


@dataclass(frozen=True)
class Times:
    """What a training costs, in seconds.

    Attributes:
        whole: The time that it may take.
        used: What it has taken.
        batch: Of a batch.
        validation: Of a validation.
        interval: Batches between validations in the recipe's last epochs.
        epoch_length: Batches of an epoch.
        batches: That the whole recipe trains.
    """

    whole: float
    used: float
    batch: float
    validation: float
    interval: int
    epoch_length: int
    batches: int

    @property
    def left(self) -> float:
        """The time that is left."""
        return self.whole - self.used

    def estimate(self, batches: int) -> float:
        """The time of so many batches, with validations, of which one is the last."""
        return batches * self.batch + self.validation * (batches // self.interval + 1)

    def is_due(self, place: int) -> bool:
        """Whether the last phase has to begin, since it would not fit a batch later.

        Args:
            place: Batches that were trained.
        """
        if self.used < MIN_TIME * self.whole:
            return False
        later = self.estimate(plan_length(place + 1, self.epoch_length))
        rest = self.estimate(self.batches - place)
        return self.left - self.batch < later and self.left < rest

    def fit(self, batches: int) -> int:
        """So many batches, or as many of them as there is time for; one at least."""
        while batches > 1 and self.estimate(batches) > self.left:
            over = self.estimate(batches) - self.left
            batches -= max(1, int(over / max(self.batch, 1e-9) / 2))
        return max(batches, 1)


def plan_length(place: int, epoch_length: int) -> int:
    """Batches of a last phase.

    Args:
        place: Batches that were trained.
        epoch_length: Batches of an epoch.
    """
    return max(1, min(round(SHARE * place), MAX_EPOCHS * epoch_length))


def count_all_batches(runner: Runner) -> int:
    """Batches after which a training ends by itself."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.max_epochs * len(loop.dataloader)
    return loop.max_iters


def check_training(runner: Runner, has_patience: bool) -> None:
    """
    Raises:
        UserError: A training is none of those that can end early.
    """
    loop, wrapper = runner.train_loop, runner.optim_wrapper
    if not isinstance(loop, ResumableLoop):
        raise UserError(
            f'patience and hours (--patience, --hours) need a training loop of '
            f"MMEngine's, by epochs or by iterations, not {type(loop).__name__}",
            key='train_cfg.type',
        )
    if not isinstance(wrapper, OptimWrapper):
        raise UserError(
            'patience and hours (--patience, --hours) need a single optimizer, not '
            f'{type(wrapper).__name__}',
            key='optim_wrapper',
        )
    if has_patience and runner.val_loop is None:
        raise UserError(
            'patience (--patience) needs a metric, and this config has no validation: '
            'set val_cfg, val_dataloader and val_evaluator'
        )


def shorten_training(runner: Runner, phase: Phase) -> None:
    """Has a training end with the last phase, and the recipe's last epochs before that.

    Args:
        runner: A training, whose loop and hooks are as the config has them.
        phase: Its last phase, in epochs of as many batches as the loop's.
    """
    loop = runner.train_loop
    last_iteration = phase.iteration + phase.end - phase.begin
    if isinstance(loop, EpochBasedTrainLoop):
        first = phase.begin // phase.epoch_length
        last = math.ceil(phase.end / phase.epoch_length)
        before, loop._max_epochs = loop.max_epochs, last
    else:
        first, last = phase.begin, phase.end
        before = loop.max_iters
    loop._max_iters = last_iteration
    loop.end = phase.end

    def move(place: int) -> int:
        """What was so far from the end, unless it is past, or would be."""
        return min(place, max(first, place - before + last))

    loop.dynamic_milestones = [move(place) for place in loop.dynamic_milestones]
    for hook in list_switches(runner):
        if hasattr(hook, 'switch_epoch'):
            hook.switch_epoch = move(hook.switch_epoch)
        else:
            epoch = move(before - 1 - hook.num_last_epochs)
            hook.num_last_epochs = last - 1 - epoch


def list_switches(runner: Runner) -> list[Any]:
    """Hooks that end mosaics before a training's last epochs.

    MMDetection's ``PipelineSwitchHook`` and ``YOLOXModeSwitchHook`` are such.
    """
    names = ('switch_epoch', 'num_last_epochs')
    return [hook for hook in runner.hooks if any(hasattr(hook, n) for n in names)]


def list_groups(runner: Runner) -> list[dict[str, Any]]:
    """The groups of parameters whose rates are scheduled; all where none is.

    MMEngine's wrapper has a group without parameters beside those of the optimizer,
    whose rate is logged, and which MMYOLO's schedule leaves alone.
    """
    groups = runner.optim_wrapper.param_groups
    return [group for group in groups if 'initial_lr' in group] or groups


def find_last_rates(runner: Runner) -> list[float]:
    """The learning rates with which a training's schedule ends, by group.

    Schedules of MMEngine's are run to their end on a copy.
    """
    groups = list_groups(runner)
    for hook in runner.hooks:
        if hasattr(hook, 'scheduler_fn'):  # MMYOLO's, of YOLOv5 and YOLOv8
            factor = hook.scheduler_fn(runner.max_epochs)
            return [float(group['initial_lr']) * factor for group in groups]
    schedulers: Any = runner.param_schedulers or []
    schedulers = [s for s in schedulers if not getattr(s, 'need_val_args', False)]
    if not schedulers:
        return [float(group['lr']) * LAST_FACTOR for group in groups]
    stand_in = SimpleNamespace(
        param_groups=[
            {key: value for key, value in group.items() if key != 'params'}
            for group in runner.optim_wrapper.param_groups
        ],
        step=SimpleNamespace(_with_counter=True),  # otherwise schedules would warn
        _global_step=1,
    )
    wrapper = runner.optim_wrapper
    memo = {id(wrapper): stand_in, id(wrapper.optimizer): stand_in}
    copies = copy.deepcopy(schedulers, memo)
    for by_epoch in _list_steps(runner):
        for scheduler in copies:
            if scheduler.by_epoch == by_epoch:
                scheduler.step()
    return [float(g['lr']) for g in stand_in.param_groups if 'initial_lr' in g]


def _list_steps(runner: Runner) -> Iterator[bool]:
    """The steps of schedules to come: whether each is at the end of an epoch."""
    loop = runner.train_loop
    length = len(loop.dataloader)
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    for place in range(loop.place, count_all_batches(runner)):
        yield False
        if by_epoch and (place + 1) % length == 0:
            yield True


def find_monitor(
    runner: Runner, metrics: dict[str, float]
) -> tuple[str, Callable[[float, float | None], bool]]:
    """The metric that says whether a training gets better, and how it says so.

    Args:
        runner: A training.
        metrics: What a validation gave, of which there is one at least.

    Returns:
        Its name; and a function that says whether a score is better than the best one.

    Raises:
        UserError: Whether more or less of it is better is not known.
    """
    key, rule = next(iter(metrics)), None
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            rule = hook.rules[0]
            key = hook.key_indicators[0] if hook.key_indicators[0] in metrics else key
    try:
        stopping = EarlyStoppingHook(key, rule)
    except ValueError as error:
        raise UserError(
            f'patience (--patience): whether more or less of {key} is better is not '
            "known: set default_hooks.checkpoint.rule to 'greater' or 'less'"
        ) from error
    compare = stopping.rule_map[stopping.rule]

    def is_better(score: float, best: float | None) -> bool:
        if best is None:
            return math.isfinite(score)
        nothing_yet = stopping.rule == 'greater' and best <= 0 and math.isfinite(score)
        return nothing_yet or compare(score, best)

    return key, is_better


def lacks_validation(runner: Runner) -> bool:
    """Whether a run that is resumed does not know what its last validation gave.

    The checkpoint of an epoch is saved before the validation.
    """
    accounts = [hook.account for hook in runner.hooks if isinstance(hook, FinishHook)]
    return any(a.patience and not a.phase and a.judged < runner.iter for a in accounts)


def read_account(content: object) -> Account:
    """The account out of a checkpoint.

    Args:
        content: An :class:`Account` as a dict, or anything else.

    Raises:
        UserError: It is anything else.
    """
    if isinstance(content, dict) and content.keys() == _names(Account):
        phase = content['phase']
        if isinstance(phase, dict) and phase.keys() == _names(Phase):
            phase = Phase(**phase)
        account = Account(**{**content, 'phase': phase})
        if all(_list_checks(account)):
            return account
    raise UserError('what it says about the end of its run cannot be')


def _names(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}


def _list_checks(account: Account) -> Iterator[bool]:
    """Whether each part is what it is to be; each counts on those before it."""
    yield account.patience is None or is_count(account.patience)
    yield account.hours is None or is_number(account.hours, 0)
    yield account.best is None or is_number(account.best)
    for number in (account.seconds, account.val_seconds, account.best_epoch):
        yield is_number(number, 0)
    for count in (account.batches, account.validations, account.judged):
        yield is_count(count)
    phase = account.phase
    yield isinstance(phase, Phase | None)
    if phase is not None:
        counts = phase.begin, phase.end, phase.epoch_length, phase.iteration
        yield all(map(is_count, counts))
        yield phase.begin < phase.end and phase.epoch_length > 0
        for rates in (phase.first_rates, phase.last_rates):
            yield isinstance(rates, list) and all(is_number(r, 0) for r in rates)
        yield len(phase.first_rates) == len(phase.last_rates)
