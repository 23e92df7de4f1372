"""Models, data sets and runners, built from a config for this machine."""

import contextlib
import copy
import ctypes
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device, is_cuda_available, utils
from mmengine.logging import MMLogger
from mmengine.model import (
    MMDistributedDataParallel,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..datasets import loading  # noqa: F401  (registers what takes images in memory)
from ..models.compute_options import describe_options, set_overrides, settle_options
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..weights.contents import read_best_scores, read_dataset_meta
from ..weights.loading import adapt, check
from .autotune import AutotuneHook
from .config_faults import check_numbers
from .config_files import check_config
from .default_hooks import MMENGINE_HOOKS, settle_hooks
from .loader_workers import OutliveSignals, end_workers, fit_workers
from .loggers import guard_backends
from .precision import settle_precision
from .progress import collect_progress
from .shared_batches import SharedBatches
from .terminal import TerminalHook, drop_noise, quieten, release, released

LOADERS = ('LoadImageFromFile', 'LoadVerifiedImage')  # of files


def build_model(cfg: Config) -> nn.Module:
    """The config's model as it is constructed, without weights."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return MODELS.build(cfg.model)


def build_dataset(cfg: Config, mode: str) -> BaseDataset:
    """The config's dataset of a mode ('train', 'val', 'test'), to look at the data.

    It has no pipeline, and each image once.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = dict(cfg[f'{mode}_dataloader'].dataset, pipeline=[])
    dataset.pop('oversample', None)
    return DATASETS.build(dataset)


def read_test_metainfo(cfg: Config) -> dict[str, Any]:
    """The meta information of a config's test data, none of which is read."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
    if 'pipeline' in dataset:  # wrappers have none
        dataset['pipeline'] = []
    return DATASETS.build(dataset).metainfo


def build_array_pipeline(cfg: Config) -> Compose:
    """A config's test pipeline for images in memory: ``dict(img=image, img_id=0)``.

    Images are (H, W, 3), BGR, uint8; grey, or with a fourth channel, where the config
    loads them so. Annotations are not loaded, since there are none.

    Raises:
        UserError: The pipeline does not load an image from a file, so that nothing
            shows where the image belongs.
    """
    steps, found = [], False
    for step in cfg.test_dataloader.dataset.pipeline:
        name = _name(step)
        if name in LOADERS:
            step, found = dict(step, type='LoadGivenImage'), True
        if name != 'LoadAnnotations':
            steps.append(copy.deepcopy(step))
    if not found:
        raise UserError('the test pipeline has no LoadImageFromFile', file=cfg.filename)
    return Compose(steps)


def read_color_type(cfg: Config) -> str:
    """How a config's test pipeline loads images: 'color', 'grayscale' or 'bgra'."""
    steps = cfg.test_dataloader.dataset.get('pipeline') or ()
    loaders = [step for step in steps if _name(step) in LOADERS]
    return loaders[0].get('color_type', 'color') if loaders else 'color'


def choose_resizing(cfg: Config, rect: bool | None = None) -> Config:
    """A copy of a config whose test pipeline resizes single images to be predicted on.

    Evaluation may resize in another way: YOLOv5's ``val.py`` pads to the shape of a
    batch, ``detect.py`` to a rectangle around each image. Then the config has
    ``predict_resizing``, which takes the place of what resizes in the test pipeline.

    Args:
        cfg: Config.
        rect: Whether to pad each image to the smallest rectangle around it, whose sides
            are multiples of the stride, or to a square; the config's way if ``None``.

    Raises:
        UserError: ``rect`` is given, and nothing in the pipeline pads.
    """
    cfg = copy.deepcopy(cfg)
    chosen = cfg.get('predict_resizing')
    if chosen:
        steps = cfg.test_dataloader.dataset.pipeline
        places = [i for i, step in enumerate(steps) if _name(step).endswith('Resize')]
        kept = [step for i, step in enumerate(steps) if i not in places]
        first = places[0] if places else 1  # what loads the image is before
        kept[first:first] = chosen
        cfg.test_dataloader.dataset.pipeline = kept
    if rect is not None:
        found = [
            step
            for step in cfg.test_dataloader.dataset.pipeline
            if _name(step).endswith('LetterResize')
        ]
        if not found:
            raise UserError(
                'images are padded to a rectangle or a square (--rect, --square) by '
                'LetterResize, and the test pipeline has none',
                file=cfg.filename,
            )
        found[-1]['use_mini_pad'] = rect
    return cfg


def _name(step: Mapping) -> str:
    """The name of a transform's type."""
    return getattr(step['type'], '__name__', step['type']).rpartition('.')[2]


def load_detector(
    cfg: Config, checkpoint: str, device: str | torch.device = 'cpu'
) -> nn.Module:
    """A config's detector with a checkpoint's weights, as it was trained.

    It is the reference that others are compared with: in eval mode, but with every
    BatchNorm, none of them folded, and weights that lie contiguously in memory. Who
    wants a faster one takes :func:`~mmnextvit.models.fold.copy_folded` of it.

    Args:
        cfg: Config of the detector, which the detector keeps as ``cfg``.
        checkpoint: File or address, of any layout that can be read. All of it and of
            the detector must fit.
        device: Where the detector is to be, as torch calls it.

    Returns:
        The detector. Its ``dataset_meta`` is the checkpoint's, or that of the config's
        test data where the checkpoint has none. Its ``best_scores`` are those of
        :func:`~mmnextvit.weights.contents.read_best_scores`.

    Raises:
        UserError: The checkpoint cannot be read, or does not fit, or ``env_cfg`` asks
            for a memory format that there is not.
    """
    set_overrides(cfg.get('env_cfg') or {})
    model = build_model(cfg)
    model.cfg = cfg  # MMDetection's API reads it
    content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    check(adapt(content, model, checkpoint), None)
    state = {k.removeprefix('module.'): v for k, v in content['state_dict'].items()}
    model.load_state_dict(state, strict=False)  # all that matters was checked
    dataset_meta = read_dataset_meta(content, checkpoint) or read_test_metainfo(cfg)
    model.dataset_meta = {key.lower(): value for key, value in dataset_meta.items()}
    check_number_of_classes(model, checkpoint)
    model.best_scores = read_best_scores(content, checkpoint)
    return model.to(device).eval()


def check_number_of_classes(model: nn.Module, checkpoint: str) -> None:
    """Checks that a detector has a name for each label that it may find.

    Raises:
        UserError: Its ``dataset_meta`` has fewer or more.
    """
    found = getattr(getattr(model, 'bbox_head', None), 'num_classes', None)
    classes = model.dataset_meta.get('classes')
    if found is not None and classes is not None and len(classes) != found:
        raise UserError(
            f"the file names {len(classes)} classes, the config's head finds {found}: "
            'take the config that it was trained with',
            file=checkpoint,
        )


class RunConfig(Config):
    """A run's config, whose text takes no time and is written whole or not at all.

    MMEngine takes the text in many places, among them each checkpoint, and has yapf
    format it anew each time: that takes longer than to write the checkpoint. Without
    yapf it is indented all the same.

    Args:
        cfg: The config, which is copied.
    """

    def __init__(self, cfg: Config) -> None:
        self.__setstate__(copy.deepcopy(cfg).__getstate__())
        self.__dict__['_format_python_code'] = False

    def dump(self, file: str | Path | None = None) -> str | None:
        if file is None:
            return super().dump()
        with atomic_write(file) as scratch:
            return super().dump(scratch)


class ResumableRunner(Runner):
    """MMEngine's runner, whose checkpoints say where in an epoch and a step it was.

    ``ResumeHook`` brings a runner back there. The workers of its data loaders end with
    an error where the shared memory is full. All processes compute in the way that the
    first one finds fastest.
    """

    def setup_env(self, env_cfg: dict) -> None:
        super().setup_env(env_cfg)
        self._device = torch.device(get_device())
        self._options = settle_options(env_cfg, self._device)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            stream = getattr(handler, 'stream', None)
            if isinstance(handler, logging.FileHandler) and stream:
                # In every locale, whatever the names of the classes are.
                stream.reconfigure(encoding='utf-8', errors='backslashreplace')
        quieten(logger)
        logger.info(describe_options(self._options, self._device))
        return logger

    def build_visualizer(self, *args: Any, **kwargs: Any) -> Visualizer:
        visualizer = super().build_visualizer(*args, **kwargs)
        guard_backends(visualizer)
        return visualizer

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        super().register_hooks(*args, **kwargs)
        if self._device.type == 'cuda':
            self.register_hook(AutotuneHook())
        self.register_hook(TerminalHook())

    def train(self) -> nn.Module:
        with released(self.logger):
            try:
                model = super().train()
            except BaseException:
                self.visualizer.close()  # MMEngine does so after a whole run only
                raise
            self.end_workers()
            return model

    def test(self) -> dict[str, float]:
        with released(self.logger):
            metrics = super().test()
            self.end_workers()
            return metrics

    def end_workers(self) -> None:
        """Ends the workers of data loaders, before something else needs the cores."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            loader = getattr(loop, 'dataloader', None)
            if isinstance(loader, DataLoader):
                end_workers(loader)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As MMEngine's, and ``None`` takes each of them out, not its own six alone."""
        kept = {
            name: hook
            for name, hook in (hooks or {}).items()
            if hook is not None or name in MMENGINE_HOOKS
        }
        super().register_default_hooks(kept)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, *args: Any, **kwargs: Any
    ) -> DataLoader:
        if isinstance(dataloader, dict):
            dataloader = fit_workers(dataloader)
            if get_device() != 'cuda':
                dataloader['pin_memory'] = False  # torch would warn
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if not isinstance(loader.collate_fn, SharedBatches):
            loader.collate_fn = SharedBatches(loader.collate_fn)
        if not isinstance(loader.worker_init_fn, OutliveSignals):
            loader.worker_init_fn = OutliveSignals(loader.worker_init_fn)
        return loader

    def save_checkpoint(
        self,
        *args: Any,
        save_optimizer: bool = True,
        meta: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if save_optimizer and meta and 'progress' not in meta:
            progress = collect_progress(self, unwrap_model(self), meta)
            meta = dict(meta, progress=progress)
        super().save_checkpoint(
            *args, save_optimizer=save_optimizer, meta=meta, **kwargs
        )


class CPURunner(ResumableRunner):
    """MMEngine's runner, whose processes take a GPU each, for processes on CPUs."""

    def setup_env(self, env_cfg: dict) -> None:
        if not torch.distributed.is_initialized():  # to find a batch size
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return MMDistributedDataParallel(
            revert_sync_batchnorm(model),  # torch has no SyncBatchNorm for CPUs
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that is freed, for the rest of the process.

    By default it hands big blocks back to the kernel, which then clears every page of
    the next iteration's tensors anew: a tenth of a training iteration on two cores.
    """
    # Other C libraries have no mallopt; Windows has no library of that name.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_THRESHOLD; older glibc refuses more than 32 MiB. M_TRIM_THRESHOLD alone
        # would leave it at 128 KiB, and even small tensors would be cleared anew.
        if mallopt(-3, 2**31 - 1) or mallopt(-3, 2**25):
            mallopt(-1, 2**31 - 1)


# What a launcher puts into the environment of each process, and what starts them.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun or tools/dist_train.sh'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}


def choose_device(name: str | None = None) -> torch.device:
    """The device to compute on.

    Args:
        name: 'cpu', 'cuda:0', ...; a GPU where there is one if ``None``.

    Raises:
        UserError: There is no such device here.
    """
    if (name or '').startswith('cuda') and not is_cuda_available():
        raise UserError(f'device {name} (--device): torch finds no CUDA GPU here')
    try:
        device = torch.device(name or get_device())
        torch.zeros(1, device=device).item()  # 'meta' has no numbers
    except (AssertionError, RuntimeError) as error:
        # Of a known device that this torch lacks, a list of all backends follows.
        reason = re.split(r'\n|\. ', str(error).strip())[0]
        raise UserError(
            f'device {name} (--device) cannot be used here: {reason}. Write cpu, cuda '
            'or cuda:0'
        ) from error
    return device


@contextlib.contextmanager
def computing_on(name: str | None, launcher: str = 'none') -> Iterator[None]:
    """Has MMEngine compute on a device in the block.

    MMEngine's runner takes no device: it asks ``get_device`` everywhere, which names
    the best kind of the machine. Of several GPUs it takes torch's current one.

    Args:
        name: As of :func:`choose_device`; ``None`` leaves everything as it is.
        launcher: The launcher of the config, whose processes have a GPU each.

    Raises:
        UserError: There is no such device here, or MMEngine trains on none of its
            kind, or each process of the launcher has one of its own.
    """
    if name is None:
        yield
        return
    device = choose_device(name)
    if device.type not in ('cpu', 'cuda', utils.DEVICE):
        raise UserError(f'device {name} (--device): MMEngine does not train on it')
    if launcher != 'none' and device.type != 'cpu':
        raise UserError(
            f'device {name} (--device): the launcher gives each process a GPU of its '
            'own. Leave it out, and choose by CUDA_VISIBLE_DEVICES'
        )
    before = utils.DEVICE
    utils.DEVICE = device.type
    current = device if device.type == 'cuda' else -1  # which is no change
    try:
        with torch.cuda.device(current):
            yield
    finally:
        utils.DEVICE = before


def build_runner(cfg: Config) -> Runner:
    """The runner for the config's launcher and this machine.

    Raises:
        UserError: There is no such launcher, or it did not start this process, or a
            number in the config cannot be, or nothing reads one of its keys.
    """
    check_numbers(cfg)
    check_config(cfg)
    launcher = cfg.get('launcher', 'none')
    if launcher not in ('none', *LAUNCHERS):
        raise UserError(
            f'launcher {launcher} (--launcher): there are none, {", ".join(LAUNCHERS)}'
        )
    variable, command = LAUNCHERS.get(launcher, ('', ''))
    if variable and variable not in os.environ:
        raise UserError(
            f'launcher {launcher} (--launcher): start the processes with {command}, '
            f'which sets {variable}'
        )
    on_cpu = get_device() == 'cpu'
    if on_cpu:
        keep_freed_memory()
    on_cpus = launcher != 'none' and on_cpu
    cfg = RunConfig(settle_hooks(cfg))
    settle_precision(cfg)
    runner = CPURunner if on_cpus else ResumableRunner
    drop_noise(MMLogger.get_current_instance())  # what tells of the runner's making
    try:
        return runner.from_cfg(cfg)
    except BaseException:
        release(MMLogger.get_current_instance())
        raise


def unwrap_model(runner: Runner) -> nn.Module:
    """The runner's model, without what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def check_amp(model: nn.Module) -> None:
    """Refuses mixed precision where a model would predict boxes in it.

    Raises:
        UserError: In mixed precision the model would predict boxes in bfloat16.
    """
    on_cpu = next(model.parameters()).device.type == 'cpu'
    if on_cpu and not getattr(model, 'predicts_in_float32', False):  # ours does
        raise UserError(
            f'on a CPU {type(model).__name__} would predict boxes and scores in '
            'bfloat16, which has 8 bits for a coordinate. Leave amp (--amp) out'
        )
