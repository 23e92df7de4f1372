"""Checkpoints that are whole or not there, and the one that a run goes on from.

A run may end at any moment: whatever it leaves behind, ``--resume`` must go on from it.
"""

import contextlib
import functools
import os
import re
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import mmengine.hooks
import mmengine.runner
import mmengine.runner.checkpoint
import mmengine.runner.runner
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..runs import BEST_FILE, LAST_FILE
from ..utils.errors import MissingFileError, UserError
from ..utils.files import (
    atomic_write,
    atomic_write_text,
    give_name,
    read_short_text,
)
from ..utils.messages import shorten
from ..weights.reader import read_checkpoint

write_checkpoint = mmengine.runner.checkpoint.save_checkpoint  # MMEngine's
LAST = 'last_checkpoint'  # file in a work dir that names its last checkpoint
# Names the iteration after which a run was last validated. The checkpoint is older: it
# is saved before the validation, and again only after one that brought a new best.
LAST_VALIDATION = 'last_validation'
INTERRUPTED = 'interrupted.pth'  # what a signal has saved, beside the checkpoints
# What else is written in a work dir while a run trains.
OTHERS = (
    *(LAST, LAST_VALIDATION, INTERRUPTED, BEST_FILE, LAST_FILE),
    *('predictions.jpg', 'batches', 'report'),
)
OUTDATED = 'outdated_ckpts'  # what a run is about to remove, among its information


def register_checkpoints() -> None:
    """Puts our writer and our hook in the place of MMEngine's, for the whole process.

    ``import mmnextvit`` calls it, by :mod:`mmnextvit._register`. Every checkpoint that
    MMEngine writes passes ``save_checkpoint``; ``CheckpointHook``, by this name in a
    config, is :class:`WholeCheckpointHook`.
    """
    for module in (mmengine.runner, mmengine.runner.checkpoint, mmengine.runner.runner):
        module.save_checkpoint = save_checkpoint
    mmengine.hooks.CheckpointHook = WholeCheckpointHook
    HOOKS.register_module('CheckpointHook', force=True, module=WholeCheckpointHook)


@functools.wraps(write_checkpoint)
def save_checkpoint(checkpoint: dict, filename: str, *args: Any, **kwargs: Any) -> None:
    if '://' in filename:
        write_checkpoint(checkpoint, filename, *args, **kwargs)
        return
    if os.path.islink(filename):  # the file behind it may be another run's
        os.unlink(filename)
    with atomic_write(filename) as scratch:
        write_checkpoint(checkpoint, str(scratch), *args, **kwargs)


class WholeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which at no moment leaves a run without a
    checkpoint that it can go on from.

    A checkpoint is removed once the one that takes its place is whole, and
    ``last_checkpoint`` names it only then. What was about to be removed when a run was
    killed is removed when it goes on. A run knows its files by their names alone, so
    that one which goes on in another folder leaves those of the first alone.

    ``last.pth`` is a second name of the newest checkpoint, and ``best.pth`` of the best
    one, or of the newest where none is known to be best. Both are there from the first
    checkpoint on, and a training that ends leaves one, whatever its ``interval``.
    """

    file_backend: Any
    _newest = 0  # the iteration of the newest checkpoint

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        info = runner.message_hub.runtime_info
        for key in [key for key in info if key.startswith('best_ckpt') and info[key]]:
            info[key] = self._locate(info[key])
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        elif self.save_best:
            for indicator in self.key_indicators:
                path = info.get(f'best_ckpt_{indicator}')
                self.best_ckpt_path_dict[indicator] = path
        if is_main_process():
            self._remove_scratch(runner)
        self._newest = runner.iter
        if runner._resume:  # it may have been killed before the names were given
            self.name_checkpoints(find_named_last(runner.work_dir, self.out_dir))
        self._remove_outdated(runner)
        self.file_backend = _Removals(self.file_backend, runner)
        report_finished(runner)

    def after_train(self, runner: Runner) -> None:
        behind = self._newest < runner.iter
        if behind and (self.save_last or self.last_ckpt is None):
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            step = meta['epoch' if self.by_epoch else 'iter']
            self._save_checkpoint_with_step(runner, step, meta)
        super().after_train(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if self.save_best:  # otherwise `Runner.val` may come without a training
            self.name_checkpoints(None)
            self._remove_outdated(runner)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, int]
    ) -> None:
        name = self.filename_tmpl.format(step)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids[0])
                self.file_backend.remove(oldest)
            self.keep_ckpt_ids.append(step)  # which drops the oldest
            kept = list(self.keep_ckpt_ids)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._newest = meta['iter']
        if is_main_process():
            atomic_write_text(Path(runner.work_dir, LAST), self.last_ckpt)
        self.name_checkpoints(Path(self.last_ckpt))
        self._remove_outdated(runner)

    def name_checkpoints(self, newest: Path | None) -> None:
        """Gives the newest and the best checkpoint their second names.

        Args:
            newest: A file; ``None`` where the newest one stays the newest.
        """
        if not is_main_process() or '://' in self.out_dir:
            return
        best, last = Path(self.out_dir, BEST_FILE), Path(self.out_dir, LAST_FILE)
        if newest is not None and newest.is_file():
            give_name(newest, last)
        found = [Path(p) for p in self._list_best() if p is not None]
        source = next((path for path in found if path.is_file()), None)
        # A best one that is not where it is to be may still have the name.
        if source is None and last.is_file() and not (found and best.is_file()):
            source = last
        if source is not None:
            give_name(source, best)
            if not last.is_file():
                give_name(source, last)

    def _list_best(self) -> list[str | None]:
        """The paths of the best checkpoints by each score, the first score first."""
        if not self.save_best:
            return []
        if len(self.key_indicators) == 1:
            return [self.best_ckpt_path]
        return [self.best_ckpt_path_dict.get(key) for key in self.key_indicators]

    def _locate(self, path: str) -> str:
        """Where a file of the run is now, whose folder may have been another."""
        return self.file_backend.join_path(self.out_dir, name_of(path))

    def _is_own(self, name: str) -> bool:
        """Whether this hook gives files such a name."""
        own = self.filename_tmpl.format('*')
        return fnmatch(name, own) or fnmatch(name, f'best_*_{own}')

    def _remove_scratch(self, runner: Runner) -> None:
        """Removes what a killed process had begun to write."""
        others = (*OTHERS, os.path.basename(runner.cfg.filename or ''))
        for folder in {runner.work_dir, self.out_dir}:
            for scratch in Path(folder).glob('.*.????????'):  # of `atomic_write`
                name = scratch.name[1:-9]
                if self._is_own(name) or name in others:
                    rmtree(scratch, ignore_errors=True)

    def _remove_outdated(self, runner: Runner) -> None:
        """Removes what others have taken the place of."""
        outdated = runner.message_hub.runtime_info.get(OUTDATED, [])
        runner.message_hub.update_info(OUTDATED, [])
        if not is_main_process():
            return
        backend = getattr(self.file_backend, 'backend', self.file_backend)
        for name in outdated:
            path = self._locate(str(name))
            if not self._is_own(name_of(path)):
                continue
            if backend.isfile(path):
                backend.remove(path)
            elif backend.isdir(path):  # DeepSpeed saves folders
                backend.rmtree(path)


class _Removals:
    """A file backend that only notes what is to be removed, among what is saved.

    Args:
        backend: The one that everything else is done with.
        runner: Its run, among whose information it is noted.
    """

    def __init__(self, backend: Any, runner: Runner) -> None:
        self.backend = getattr(backend, 'backend', backend)
        self._hub = runner.message_hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        noted = self._hub.runtime_info.get(OUTDATED, [])
        self._hub.update_info(OUTDATED, [*noted, name_of(path)])

    rmtree = remove


def name_of(path: str) -> str:
    """The name of a file on whichever system its path was written."""
    return re.split(r'[\\/]', path)[-1]


def find_named_last(work_dir: str, folder: str) -> Path | None:
    """The checkpoint in a folder that ``last_checkpoint`` of a run's folder names."""
    last = Path(work_dir, LAST)
    return Path(folder, name_of(read_short_text(last))) if last.is_file() else None


def report_finished(runner: Runner) -> None:
    """Says so where a run that is resumed has nothing left to train."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    unit = 'epochs' if by_epoch else 'iterations'
    key = 'train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters'
    done, wanted = (
        (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    )
    if done >= wanted:
        advice = f'To train on, raise {key} (--cfg-options {key}=N)'
        if getattr(loop, 'end', None) is not None:
            advice = (
                'Its last phase is over: to train on, start a new run from its weights '
                'with load_from in the config'
            )
        runner.logger.info(
            f'The run in {runner.work_dir} is finished: it has trained {done} of '
            f'{wanted} {unit}. {advice}'
        )


def check_training_state(checkpoint: dict, runner: Runner, source: str) -> None:
    """
    Raises:
        UserError: A run that is resumed would go on from the checkpoint without a part
            of its state.
    """
    check_parts(checkpoint, source)
    if runner.param_schedulers is not None and 'param_schedulers' not in checkpoint:
        raise UserError(f'{source} holds no state of the schedules: {ADVICE}')
    ema = find_ema(runner)
    if ema is not None and 'ema_state_dict' not in checkpoint:
        raise UserError(
            f'{source} holds no averaged weights (EMA), though the config has '
            f'{type(ema).__name__}: resume with the config that the run had, or '
            'start from the weights with load_from in the config'
        )


def find_ema(runner: Runner) -> EMAHook | None:
    """The hook that averages a run's weights, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)


ADVICE = (
    'resume the last checkpoint of its run (--resume), or start a new run from its '
    'weights with load_from in the config'
)


def check_parts(checkpoint: dict, source: str) -> None:
    """
    Raises:
        UserError: A checkpoint has none of the state that every run goes on from.
    """
    if not {'meta', 'message_hub'} <= checkpoint.keys():
        raise UserError(
            f'{source} holds weights but no training state: to start from them set '
            'load_from in the config, and do not resume (--resume)'
        )
    if 'optimizer' not in checkpoint:
        raise UserError(
            f'{source} holds no state of the optimizer, as files of the best weights '
            f'do not: {ADVICE}'
        )


class Whole(NamedTuple):
    """A checkpoint that a run can go on from."""

    path: Path
    saved: str  # when, as in 20240131_235959
    iter: int


def read_whole(path: Path) -> Whole:
    """Reads all of a checkpoint.

    Raises:
        UserError: It is damaged, or no run can go on from it.
    """
    checkpoint = read_checkpoint(path)
    check_parts(checkpoint, str(path))
    if zipfile.is_zipfile(path):
        check_sums(path)
    meta = checkpoint['meta'] if isinstance(checkpoint['meta'], dict) else {}
    iteration = meta.get('iter')
    return Whole(
        path,
        str(meta.get('time', '')),
        iteration if isinstance(iteration, int) else 0,
    )


def check_sums(path: Path) -> None:
    """Compares the parts of a zip file with their checksums.

    Raises:
        UserError: One is not what was saved, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # whatever the bytes lead to
        problem = f'the file is damaged ({type(error).__name__}: {shorten(error)})'
        raise UserError(problem, file=path) from error
    if damaged is not None:
        problem = f'the file is damaged: {shorten(damaged)} is not what was saved'
        raise UserError(problem, file=path)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, each once; second names come last."""
    paths = sorted(folder.glob('*.pth'))
    paths.sort(key=lambda path: path.name in (BEST_FILE, LAST_FILE))
    files: dict[tuple[int, int], Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # a link to nothing
            status = path.stat()
            files.setdefault((status.st_dev, status.st_ino), path)
    return list(files.values())


def find_own_name(path: Path) -> Path:
    """The name that a run gave a checkpoint, for ``best.pth`` or ``last.pth``."""
    if path.name in (BEST_FILE, LAST_FILE):
        for other in list_checkpoints(path.parent):
            if other.samefile(path):
                return other
    return path


def find_last_checkpoint(work_dir: Path, folder: Path) -> tuple[Path, list[str]]:
    """The checkpoint that a run was to go on from, or else its newest whole one.

    Args:
        work_dir: The run's folder, in which ``last_checkpoint`` names a file.
        folder: The folder of its checkpoints, as a rule the same one.

    Returns:
        The checkpoint; and, where it is not the one that ``last_checkpoint`` names,
        why, a sentence for each file that was passed over.

    Raises:
        MissingFileError: None is whole.
    """
    last = work_dir / LAST
    skipped = []
    try:
        name = name_of(read_short_text(last))
        named = folder / name
        if not name:
            skipped.append(f'{last} is empty')
        elif {'\0', '\ufffd'} & set(name):  # U+FFFD is what was not UTF-8
            skipped.append(f'{last} does not name a file ({shorten(name)})')
        elif not named.is_file():
            skipped.append(f'{last} names {shorten(name)}, which is not in {folder}')
        else:
            return read_whole(named).path, []
    except UserError as error:
        skipped.append(str(error))
    except OSError as error:
        skipped.append(f'{last}: {error.strerror}')
    paths = list_checkpoints(folder)
    best = [path for path in paths if path.name.startswith(('best_', BEST_FILE))]
    whole = []
    for path in [path for path in paths if path not in best] or best:
        try:
            whole.append(read_whole(path))
        except UserError as error:
            skipped.append(str(error))
    if not whole:
        raise MissingFileError(
            f'{folder} has no whole checkpoint to resume: start anew in another folder '
            f'(--work-dir). {"; ".join(dict.fromkeys(skipped))}'
        )
    return max(whole, key=lambda found: found[1:]).path, [*dict.fromkeys(skipped)]
