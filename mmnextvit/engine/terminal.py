"""What a command shows of a run: a summary, what must be read, and a line that moves.

The log file has all that MMEngine tells: the environment, the whole config, the hooks.
"""

import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..datasets.samples import list_datasets
from ..utils.messages import first_few
from .time_left import read_peak_memory

MAX_LINES = 28  # before the first iteration; some may come before there is a logger
MAX_COUNTED = 20_000  # images whose boxes are counted: these take seconds
# What libraries say to those who develop with them, and what no config can change.
NOISE = re.compile(
    r'deprecat|(upcoming|future) (release|version)|will be removed|'
    r'^Failed to search registry with scope|'
    r'^`(save|resume)_param_scheduler` is True but|'
    r' is skipped since its requires_grad=False$|'  # a line for each frozen tensor
    r'^Please make sure that the mlflow server is running',  # it may be a file
    re.IGNORECASE,
)
# What a user wants to know of what MMEngine and we tell before the first iteration.
WANTED = re.compile(
    r'^Load checkpoint from|^resumed epoch|tensors fit$|tensors fit\n|is finished: |'
    r'^The validation after|^Losses and scores go to|batches of the epoch are done|'
    r'^The step of the optimizer|: [\d,]+ images, |stays where it is$',
    re.MULTILINE,
)


def is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a message is one for a user."""
    return not NOISE.search(record.getMessage())


def drop_noise(logger: MMLogger) -> None:
    """Keeps what is none for a user from the terminal."""
    for handler in filter(is_terminal, logger.handlers):
        handler.addFilter(is_worth_reading)  # once: it is the same each time


class QuietStart(logging.Filter):
    """Keeps messages from the terminal until a run begins.

    Then those that a user must read are shown, after the summary of the run.

    Args:
        handler: The handler of the terminal.
    """

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self.handler = handler
        self.held: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        wanted = WANTED.search(record.getMessage())
        warning = record.levelno >= logging.WARNING and is_worth_reading(record)
        if warning or wanted:
            self.held.append(record)
        return False

    def release(self, max_lines: int, log: str | None) -> None:
        """Shows what was held, and from now on everything but noise.

        Args:
            max_lines: How many lines of it are shown.
            log: The file that has the others.
        """
        self.handler.removeFilter(self)
        self.handler.addFilter(is_worth_reading)
        left = max_lines
        for record in self.held:
            lines = record.getMessage().splitlines()
            shown = lines[: max(left, 0)]
            left -= len(lines)
            if shown:
                short = logging.makeLogRecord({**vars(record), 'args': None})
                short.msg = '\n'.join(shown)
                self.handler.emit(short)  # its filters have seen it before
        if left < 0:
            print(f'... and {-left} more lines, which are in {log}', flush=True)
        self.held = []


@contextmanager
def at_level(level: str) -> Iterator[None]:
    """Has MMEngine's logger tell nothing below a level in the block."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def quieten(logger: MMLogger) -> None:
    """Keeps what a logger tells from the terminal until the run begins."""
    for handler in logger.handlers:
        if is_terminal(handler):
            handler.addFilter(QuietStart(handler))


def release(logger: MMLogger, max_lines: int = MAX_LINES) -> None:
    """Ends what :func:`quieten` began, if it has not ended yet."""
    for handler in logger.handlers:
        for found in [f for f in handler.filters if isinstance(f, QuietStart)]:
            found.release(max_lines, logger.log_file)


@contextmanager
def released(logger: MMLogger) -> Iterator[None]:
    """Has what is held shown at last where the block fails."""
    try:
        yield
    finally:
        release(logger)


def is_terminal(handler: logging.Handler) -> bool:
    """Whether a handler prints."""
    return isinstance(handler, logging.StreamHandler) and not isinstance(
        handler, logging.FileHandler
    )


class TerminalHook(Hook):
    """Says what is about to run, and then has a line that rewrites itself.

    The line is for terminals only; elsewhere there are the lines of the log.
    """

    priority = 'LOWEST'  # all that others prepare and tell comes before

    def __init__(self) -> None:
        self._line = LiveLine()

    def before_train(self, runner: Runner) -> None:
        lines = [*describe_run(runner, 'train'), *describe_steps(runner)]
        self._begin(runner, lines)

    def before_test(self, runner: Runner) -> None:
        self._begin(runner, [*describe_run(runner, 'test')])

    def before_val(self, runner: Runner) -> None:
        self._line.clear()
        release(runner.logger)  # of a validation alone

    def _begin(self, runner: Runner, lines: list[str]) -> None:
        handlers = [h for h in runner.logger.handlers if is_terminal(h)]
        # Those of other processes than the first show errors only.
        if any(handler.level <= logging.INFO for handler in handlers):
            lines.append(f'log       {runner.logger.log_file}')
            print(*lines, sep='\n', flush=True)
        for handler in handlers:
            handler.addFilter(self._line.make_way)
        release(runner.logger, MAX_LINES - len(lines))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, *args: object, **kwargs: object
    ) -> None:
        if is_main_process() and self._line.is_due():
            self._line.show(describe_progress(runner, batch_idx))

    def after_train_epoch(self, runner: Runner) -> None:
        self._line.clear()

    after_train = after_train_epoch


class LiveLine:
    """A line at the end of a terminal that is written anew in its place."""

    PAUSE = 0.2  # seconds for which each text stands

    def __init__(self) -> None:
        self._shown = -self.PAUSE
        self._stands = False

    def is_due(self) -> bool:
        return sys.stdout.isatty() and time.monotonic() - self._shown >= self.PAUSE

    def show(self, text: str) -> None:
        width = shutil.get_terminal_size().columns
        sys.stdout.write(f'\r{text[: width - 1]}\x1b[K')
        sys.stdout.flush()
        self._shown, self._stands = time.monotonic(), True

    def clear(self) -> None:
        if self._stands:
            sys.stdout.write('\r\x1b[K')
            sys.stdout.flush()
        self._stands = False

    def make_way(self, record: logging.LogRecord) -> bool:
        """For a handler that is about to print a message."""
        self.clear()
        return True


def describe_run(runner: Runner, mode: str) -> Iterator[str]:
    """Lines about the model, its data and where it computes.

    Args:
        runner: A runner that has built all that it needs.
        mode: 'train' or 'test'.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parameters = sum(p.numel() for p in model.parameters())
    names = [type(m).__name__ for m in (model, getattr(model, 'backbone', None)) if m]
    yield f'model     {" with ".join(names)}, {parameters / 1e6:.1f} million parameters'
    modes = ('train', 'val') if mode == 'train' else (mode,)
    for part in modes:
        if getattr(runner, f'{part}_loop') is not None:
            dataset = getattr(runner, f'{part}_dataloader').dataset
            yield f'{part:9} {describe_data(dataset)}'
            classes = getattr(dataset, 'metainfo', {}).get('classes', ())
    yield f'classes   {len(classes)}: {first_few(classes)}'
    yield f'device    {describe_device(model)}'


def describe_data(dataset: object) -> str:
    """How many images and boxes a dataset has, and where they are from."""
    parts = list_datasets(dataset)
    if not all(hasattr(part, '__len__') for part in parts):
        return type(dataset).__name__  # it has no end
    # len has a dataset read what it is of
    every = [range(len(part)) for part in parts]
    distinct = [getattr(p, 'distinct', all_) for p, all_ in zip(parts, every)]
    images = sum(map(len, distinct))
    files = [str(getattr(part, 'ann_file', '')) for part in parts]
    named = first_few([file for file in files if file], 2)
    text = f'{images:,} images'
    if images <= MAX_COUNTED and all(hasattr(p, 'get_data_info') for p in parts):
        boxes = sum(
            len(part.get_data_info(i).get('instances', ()))
            for part, indices in zip(parts, distinct)
            for i in indices
        )
        text = f'{text}, {boxes:,} boxes'
    return f'{text} ({named})' if named else text


def describe_device(model: nn.Module) -> str:
    """Where a model computes, and by how many processes."""
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    name = f'CPU, {torch.get_num_threads()} threads'
    if device.type == 'cuda':
        name = f'{torch.cuda.get_device_name(device)} ({device})'
    elif device.type != 'cpu':
        name = str(device)
    processes = get_world_size()
    return f'{name}, {processes} processes' if processes > 1 else name


def describe_steps(runner: Runner) -> Iterator[str]:
    """Lines about how long, in what steps and to where a run trains."""
    loop, wrapper = runner.train_loop, runner.optim_wrapper
    length = f'{loop.max_iters:,} iterations'
    if isinstance(loop, EpochBasedTrainLoop):
        length = f'{loop.max_epochs:,} epochs of {len(loop.dataloader):,} iterations'
        if loop.epoch:
            length = f'{length}, of which {loop.epoch:,} are done'
    batch = getattr(loop.dataloader, 'batch_size', None)
    batch = batch or getattr(loop.dataloader.batch_sampler, 'batch_size', None)
    images = f', {batch} images each' if batch else ''
    yield f'training  {length}{images}'
    optimizers = [getattr(w, 'optimizer', None) for _, w in list_wrappers(wrapper)]
    names = ', '.join(type(o).__name__ for o in optimizers if o is not None)
    settings = runner.cfg.get('optim_wrapper') or {}
    rate = (settings.get('optimizer') or {}).get('lr')
    mixed = 'Amp' in type(wrapper).__name__
    precision = 'mixed precision' if mixed else 'float32'
    yield f'optimizer {names}, learning rate {rate}, {precision}'
    yield f'run       {Path(runner.work_dir)}: best.pth, last.pth'


def list_wrappers(wrapper: object) -> list[tuple[str, object]]:
    """The optimizers' wrappers of a runner, of which there may be several."""
    return list(wrapper.items()) if hasattr(wrapper, 'items') else [('', wrapper)]


def describe_progress(runner: Runner, batch_idx: int) -> str:
    """Where a training is: loss, rate, memory and the time that is left."""
    loop, hub = runner.train_loop, runner.message_hub
    place = f'iteration {runner.iter + 1:,}/{loop.max_iters:,}'
    if isinstance(loop, EpochBasedTrainLoop):
        place = f'epoch {loop.epoch + 1}/{loop.max_epochs}'
        place = f'{place} [{batch_idx + 1}/{len(loop.dataloader)}]'
    scalars = hub.log_scalars
    parts = [place]
    if 'train/loss' in scalars:
        parts.append(f'loss {scalars["train/loss"].mean(10):.4f}')
    if 'train/lr' in scalars:
        parts.append(f'lr {scalars["train/lr"].current():.2e}')
    memory = read_peak_memory()
    if memory is not None:
        parts.append(f'{memory:,} MiB')
    if 'eta' in hub.runtime_info:
        left = timedelta(seconds=int(hub.get_info('eta')))
        parts.append(f'{left} left')
    return '  '.join(parts)
