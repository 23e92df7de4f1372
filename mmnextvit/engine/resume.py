"""The hook that brings a resumed run to where it was."""

import re
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.errors import naming_file
from ..utils.files import atomic_write_text, read_short_text
from .checkpoints import LAST_VALIDATION
from .finishing import lacks_validation
from .loops import ResumableLoop
from .progress import Progress, read_progress, restore_progress
from .randomness import Stream
from .runner import unwrap_model


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes within an epoch and within a step, and makes up for a validation that did
    not come to its end.

    Raises:
        UserError: What the checkpoint says about the progress of its run cannot be.
    """

    priority = 'LOWEST'  # what it begins needs all that other hooks prepare

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        content = checkpoint['meta'].get('progress') if runner._resume else None
        if content is not None:  # MMEngine's own have none
            with naming_file(runner._load_from):
                self._progress = read_progress(content)

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not runner._resume or not isinstance(loop, ResumableLoop):
            return
        if self._progress is not None:
            with naming_file(runner._load_from):
                restore_progress(runner, unwrap_model(runner), self._progress)
        known = read_last_validation(runner) >= runner.iter
        if loop.is_validation_due() and (not known or lacks_validation(runner)):
            runner.logger.info('The validation after this checkpoint is made up for')
            name_last_checkpoint(runner)
            runner.val_loop.run()

    def before_val(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, ResumableLoop):
            runner._train_loop.seed(Stream.VALIDATION, runner.iter)

    @master_only
    def after_val(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, ResumableLoop):
            path = Path(runner.work_dir, LAST_VALIDATION)
            atomic_write_text(path, f'{runner.iter}\n')


def read_last_validation(runner: Runner) -> int:
    """The iteration after which a run was last validated, 0 for none."""
    path = Path(runner.work_dir, LAST_VALIDATION)
    text = read_short_text(path) if path.is_file() else ''
    return int(text) if re.fullmatch('[0-9]{1,18}', text) else 0


def name_last_checkpoint(runner: Runner) -> None:
    """Tells hooks that save which checkpoint to save again after a new best."""
    resumed = Path(runner._load_from).resolve()
    for hook in runner.hooks:
        saves = isinstance(hook, CheckpointHook) and '://' not in hook.out_dir
        if saves and resumed.parent == Path(hook.out_dir).resolve():
            hook.last_ckpt = str(resumed)
