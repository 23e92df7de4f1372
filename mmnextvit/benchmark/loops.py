"""What a run's loops cost beside the work they are for, in seconds.

Everything is measured in consecutive iterations: a loader that fills its queue while
something else is timed would seem to cost nothing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mmnextvit.deploy.candidates import resized
from mmnextvit.models.fold import deployed

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmyolo.models import YOLODetector
from torch.utils.data import DataLoader

from .runner import build_runner


class Training(NamedTuple):
    """Seconds a batch, an entry for each batch, and the shape of its images."""

    whole: list[float]  # iterations of the train loop, from batch to batch
    waiting: list[float]  # of them, for the loader
    model: list[float]  # forward, backward and step alone, with one batch
    loader: list[float]  # the loader alone
    shape: torch.Size


class Validation(NamedTuple):
    """Seconds an image, an entry for each round."""

    whole: list[float]  # the validation loop: data, network, boxes, mAP, hooks
    forward: list[float]  # the network alone in deploy mode, with the same batches


class Detection(NamedTuple):
    """Seconds an image, an entry for each round, in deploy mode."""

    predict: list[float]  # network, decoding and NMS
    forward: list[float]  # the network alone


def synchronize() -> None:
    """Waits for what a GPU has been given to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Appends the seconds that the context takes."""
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    into.append(time.perf_counter() - start)


def ready_runner(cfg: Config, mode: str) -> Runner:
    """A runner whose loop of a mode ('train', 'val') is about to begin."""
    cfg = cfg.copy()
    cfg.log_level = 'WARNING'
    cfg.default_hooks.checkpoint = None  # files are no part of a loop
    runner = build_runner(cfg)
    if not isinstance(runner.model, YOLODetector):
        raise ValueError(
            f'{cfg.filename}: {type(runner.model).__name__} is none of the YOLO '
            'detectors, whose loops are measured'
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


def close(loader: DataLoader) -> None:
    """Ends workers that persist: they would fill their queues beside what follows."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
        loader._iterator = None


def measure_training(cfg: Config, batches: int, warm_up: int = 3) -> Training:
    """Times iterations of the train loop, then its model and its loader alone.

    Args:
        cfg: Config of a detector.
        batches: Number of measured ones of each kind.
        warm_up: Number of batches before them.
    """
    runner = ready_runner(cfg, 'train')
    loop, loader = runner.train_loop, runner.train_dataloader
    runner.model.train()
    runner.optim_wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    times = [], [], [], []
    into_whole, into_waiting, into_model, into_loader = times

    stream = endless(loader)
    for _ in range(warm_up + batches):
        with timed(into_whole):
            with timed(into_waiting):
                number, batch = next(stream)
            loop.run_iter(number, batch)
    stream.close()
    close(loader)

    batch = next(iter(loader))
    close(loader)
    for _ in range(warm_up + batches):
        fresh = cloned(batch)  # heads write into their labels
        with timed(into_model):
            runner.model.train_step(fresh, runner.optim_wrapper)

    stream = endless(loader)
    # as many as the workers hold ready; from then on each takes its time
    for _ in range(max(warm_up, loader.num_workers * (loader.prefetch_factor or 0))):
        next(stream)
    for _ in range(batches):
        with timed(into_loader):
            next(stream)
    stream.close()
    close(loader)
    return Training(*(part[-batches:] for part in times), batch['inputs'].shape)


def measure_validation(cfg: Config, rounds: int) -> Validation:
    """Times validations, and the network over the same images, in turn.

    Args:
        cfg: Config of a detector, whose ``load_from`` has trained weights: others find
            unlike numbers of boxes.
        rounds: Number of measured ones; one more comes before.
    """
    runner = ready_runner(cfg, 'val')
    loader = runner.val_dataloader
    times = Validation([], [])
    for _ in range(1 + rounds):
        with timed(times.whole):
            runner.val_loop.run()
        network, passes = deployed(runner.model.eval()), []
        for batch in loader:
            inputs = network.data_preprocessor(batch, False)['inputs']
            with torch.inference_mode(), timed(passes):
                network._forward(inputs)
        times.forward.append(sum(passes))
    close(loader)
    images = len(loader.dataset)
    return Validation(*([s / images for s in part[1:]] for part in times))


def measure_detection(cfg: Config, size: int, rounds: int) -> Detection:
    """Times prediction on an image of the validation data, and the network, in turn.

    Args:
        cfg: As for :func:`measure_validation`.
        size: Height and width in pixels.
        rounds: Number of measured ones; two more come before.
    """
    cfg = cfg.copy()
    cfg.test_dataloader.dataset = cfg.val_dataloader.dataset
    cfg = resized(cfg, (size, size))
    cfg.val_dataloader = cfg.test_dataloader
    runner = ready_runner(cfg, 'val')
    network = deployed(runner.model.eval())
    batch = pseudo_collate([runner.val_dataloader.dataset[0]])
    data = network.data_preprocessor(batch, False)
    times = Detection([], [])
    with torch.inference_mode():
        for _ in range(2 + rounds):
            with timed(times.predict):
                network(**data, mode='predict')
            with timed(times.forward):
                network._forward(data['inputs'])
    return Detection(*(part[2:] for part in times))


def endless(loader: DataLoader) -> Iterator[tuple[int, dict]]:
    """Batches with their number in the epoch, epoch after epoch."""
    while True:
        yield from enumerate(loader)


def cloned(data: object) -> object:
    """A copy of nested data, with its tensors."""
    if isinstance(data, torch.Tensor):
        return data.clone()
    if isinstance(data, dict):
        return {key: cloned(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(cloned, data))
    return data
