"""What a run's loops cost beside the work that they are for.

Everything is measured in consecutive iterations: a loader that fills its queue while
something else is timed would seem to cost nothing.
"""

import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.runner import Runner

from ..deploy.metadata import resize_test_pipeline
from ..engine.loader_workers import end_workers
from ..engine.loops import ResumableLoop, resumable
from ..engine.prediction import predict_files
from ..engine.runner import build_dataset, build_runner
from ..models.fold import copy_folded
from ..predictors import CheckpointNetwork, Predictor
from ..utils.errors import UserError
from .backbones import Contestant, Settings, build_network, train_step
from .timing import read_clock, time_call, time_in_turn


class Training(NamedTuple):
    """Seconds a batch, an entry for each batch, and the shape of its images."""

    iterations: list[float]  # of the train loop, from batch to batch
    waiting: list[float]  # of them, for the loader
    model: list[float]  # forward, backward and step alone, with one batch
    loader: list[float]  # the loader alone
    shape: torch.Size


class Validation(NamedTuple):
    """Seconds an image, an entry for each round."""

    loop: list[float]  # the validation loop: data, network, boxes, mAP, hooks
    forward: list[float]  # the network alone in deploy mode, with the same batches


class Detection(NamedTuple):
    """Seconds an image, an entry for each round, in deploy mode."""

    predict: list[float]  # network, decoding and NMS
    forward: list[float]  # the network alone


class Prediction(NamedTuple):
    """Seconds an image, an entry for each round, in deploy mode."""

    files: list[float]  # from files to drawings: read, resize, detect, draw, write
    forward: list[float]  # the network alone, over the same images one by one


class LoopCost(NamedTuple):
    """Seconds of something, and of what it is compared with."""

    what: str
    seconds: float
    beside: str
    base_seconds: float


def measure_loops(cfg: Config, settings: Settings) -> tuple[list[LoopCost], torch.Size]:
    """A detector's loops, and timm's step in the shape of the config's batches.

    Args:
        cfg: Config of a detector of MMYOLO's, with a ``work_dir``. Its ``load_from``
            has trained weights: others detect other numbers of boxes.
        settings: Rounds, the backbone's ``arch`` and the ``size`` of detection.

    Returns:
        The costs, and the shape of the batches (B, 3, H, W).

    Raises:
        UserError: The device is not the one that a run would use, or the detector is
            not one of MMYOLO's.
    """
    device, rounds = settings.device, settings.rounds
    if device != get_device():
        raise UserError(f'loops run on {get_device()}: say --device {get_device()}')
    train = measure_training(cfg, rounds)
    timm = Contestant('timm')
    net = build_network(timm, settings.arch, device).train()
    step = partial(train_step, net, timm, torch.randn(train.shape, device=device))
    timm_step = time_in_turn({'timm': step}, rounds)['timm']
    val = measure_validation(cfg, max(rounds // 3, 1))
    size = settings.size or 640
    detect = measure_detection(cfg, size, rounds)
    iteration, forward = median(train.iterations), 'its forward pass'
    alone = median(train.model) + median(train.loader)
    costs = [
        ('training iteration', iteration, "timm's backbone step", timm_step),
        ('training iteration', iteration, 'model and loader alone', alone),
        (
            *('waiting for the loader', median(train.waiting)),
            *('training iteration', iteration),
        ),
        (
            *('validation, an image', median(val.loop)),
            *(forward, median(val.forward)),
        ),
        (
            *(f'detection, {size}x{size}', median(detect.predict)),
            *(forward, median(detect.forward)),
        ),
    ]
    if cfg.get('load_from'):  # which `predict` loads by itself
        predict = measure_prediction(cfg, max(rounds // 3, 1))
        files, forwards = median(predict.files), median(predict.forward)
        costs.append(('predict, an image', files, forward, forwards))
    return [LoopCost(*cost) for cost in costs], train.shape


def prepare_runner(cfg: Config, mode: str) -> Runner:
    """A runner whose loop of a mode ('train', 'val') is about to begin."""
    cfg = cfg.copy()
    cfg.log_level = 'WARNING'
    cfg.default_hooks.checkpoint = None  # files are no part of a loop
    if mode == 'train':
        cfg.train_cfg = resumable(cfg.train_cfg)  # as `train` has it
    runner = build_runner(cfg)
    # By name, since the package works without MMYOLO.
    if all(cls.__name__ != 'YOLODetector' for cls in type(runner.model).__mro__):
        raise UserError(
            f'{type(runner.model).__name__} is none of the YOLO detectors, whose loops '
            'are measured',
            file=cfg.filename,
        )
    if mode == 'train':
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if runner.param_schedulers:
            schedulers = runner.build_param_scheduler(runner.param_schedulers)
            runner.param_schedulers = schedulers
        runner._init_model_weights()
    else:
        runner._val_loop = runner.build_val_loop(runner._val_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def measure_training(cfg: Config, batches: int, warm_up: int = 3) -> Training:
    """Times iterations of the train loop, then its model and its loader alone.

    Args:
        cfg: Config of a detector.
        batches: Number of measurements of each.
        warm_up: Number of batches before them.
    """
    runner = prepare_runner(cfg, 'train')
    loader = runner.train_dataloader
    runner.model.train()
    max_iters = runner.train_loop.max_iters
    runner.optim_wrapper.initialize_count_status(runner.model, 0, max_iters)
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    iterations, waiting = time_iterations(runner, warm_up + batches)
    batch = next(iter(runner.train_loop.list_batches()))
    end_workers(loader)
    model = [time_train_step(runner, batch) for _ in range(warm_up + batches)]
    return Training(
        iterations[warm_up:],
        waiting[warm_up:],
        model[warm_up:],
        time_loader(runner.train_loop, batches, warm_up),
        batch['inputs'].shape,
    )


def time_iterations(runner: Runner, count: int) -> tuple[list[float], list[float]]:
    """Seconds of iterations of the train loop, and of their wait for the loader."""
    stream = repeat_batches(runner.train_loop)
    iterations, waiting = [], []
    for _ in range(count):
        start = read_clock()
        number, batch = next(stream)
        loaded = read_clock()
        runner.train_loop.run_iter(number, batch)
        iterations.append(read_clock() - start)
        waiting.append(loaded - start)
    stream.close()
    end_workers(runner.train_dataloader)
    return iterations, waiting


def time_train_step(runner: Runner, batch: dict) -> float:
    """Seconds of forward, backward and step with a batch."""
    fresh = clone_tensors(batch)  # heads write into their labels
    return time_call(lambda: runner.model.train_step(fresh, runner.optim_wrapper))


def time_loader(loop: ResumableLoop, batches: int, warm_up: int) -> list[float]:
    """Seconds that a loop's loader takes for each of a number of batches."""
    loader, stream = loop.dataloader, repeat_batches(loop)
    # As many as the workers hold ready; from then on each takes its time.
    for _ in range(max(warm_up, loader.num_workers * (loader.prefetch_factor or 0))):
        next(stream)
    times = [time_call(lambda: next(stream)) for _ in range(batches)]
    stream.close()
    end_workers(loader)
    return times


def measure_validation(cfg: Config, rounds: int) -> Validation:
    """Times validations, and the network over the same images, in turn.

    Args:
        cfg: Config of a detector, whose ``load_from`` has trained weights: others
            detect other numbers of boxes.
        rounds: Number of measurements; one more comes before.
    """
    runner = prepare_runner(cfg, 'val')
    loader = runner.val_dataloader
    loop, forward = [], []
    for _ in range(1 + rounds):
        loop.append(time_call(runner.val_loop.run))
        network = copy_folded(runner.model.eval())
        with torch.inference_mode():
            inputs = (network.data_preprocessor(b, False)['inputs'] for b in loader)
            forward.append(sum(time_call(partial(network._forward, x)) for x in inputs))
    end_workers(loader)
    images = len(loader.dataset)
    return Validation(*([s / images for s in part[1:]] for part in (loop, forward)))


def measure_detection(cfg: Config, size: int, rounds: int) -> Detection:
    """Times prediction on an image of the validation data, and the network, in turn.

    Args:
        cfg: As for :func:`measure_validation`.
        size: Height and width in pixels.
        rounds: Number of measurements; two more come before.
    """
    cfg = cfg.copy()
    cfg.test_dataloader.dataset = cfg.val_dataloader.dataset
    cfg = resize_test_pipeline(cfg, (size, size))
    cfg.val_dataloader = cfg.test_dataloader
    runner = prepare_runner(cfg, 'val')
    network = copy_folded(runner.model.eval())
    batch = pseudo_collate([runner.val_dataloader.dataset[0]])
    data = network.data_preprocessor(batch, False)
    predict, forward = [], []
    with torch.inference_mode():
        for _ in range(2 + rounds):
            predict.append(time_call(partial(network, **data, mode='predict')))
            forward.append(time_call(partial(network._forward, data['inputs'])))
    return Detection(predict[2:], forward[2:])


def measure_prediction(cfg: Config, rounds: int, count: int = 100) -> Prediction:
    """Times ``predict`` on files, without its start, and the network, in turn.

    Args:
        cfg: As for :func:`measure_validation`.
        rounds: Number of measurements; one more comes before.
        count: How many of the validation images to take, at most.
    """
    predictor = Predictor(cfg, cfg.load_from)
    network = predictor.network
    assert isinstance(network, CheckpointNetwork)
    infos = build_dataset(cfg, 'val').load_data_list()[:count]
    paths = [Path(info['img_path']) for info in infos]

    def predict() -> None:
        with tempfile.TemporaryDirectory(dir=cfg.work_dir) as folder:
            found = predict_files(
                *(predictor, paths, Path(folder)),
                show_progress=False,
                prepare=predictor.prepare,
            )
            for _ in found:
                pass

    def forward(path: Path) -> float:
        batch = pseudo_collate([predictor.prepare(path).inputs])
        with torch.inference_mode():
            inputs = network.model.data_preprocessor(batch, False)['inputs']
            return time_call(partial(network.model._forward, inputs))

    files, forwards = [], []
    for _ in range(1 + rounds):
        files.append(time_call(predict) / len(paths))
        forwards.append(sum(map(forward, paths)) / len(paths))
    return Prediction(files[1:], forwards[1:])


def repeat_batches(loop: ResumableLoop) -> Generator[tuple[int, dict], None, None]:
    """Batches with their number in the epoch, the loop's epoch again and again."""
    while True:
        yield from enumerate(loop.list_batches())


def clone_tensors(data: object) -> object:
    """A copy of nested data, with its tensors."""
    if isinstance(data, torch.Tensor):
        return data.clone()
    if isinstance(data, dict):
        return {key: clone_tensors(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(clone_tensors, data))
    return data
