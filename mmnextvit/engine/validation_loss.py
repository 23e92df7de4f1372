"""The loss of the validation data, by the same terms as the loss of training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.messages import first_few, shorten
from .data_report import list_datasets
from .randomness import Stream, drawing_apart, run_seed
from .runner import unwrap_model

# MMYOLO's heads whose losses are no means over the images, by the class that computes
# them: whether they are multiplied by the images of a batch, and by the processes.
MULTIPLIED = {
    'YOLOv5Head': (True, True),
    'YOLOv6Head': (False, True),
    'YOLOv7Head': (True, True),
    'YOLOv8Head': (True, True),
}
# What may follow LoadAnnotations and leaves boxes where they are.
HARMLESS = ('Load', 'Pack', 'Pad')


class KeptMaps:
    """A detector's ``extract_feat``, which keeps what it gave last.

    For the same images it gives the same maps without computing them again, so that the
    losses cost no second pass of backbone and neck.

    Args:
        model: A detector, whose ``extract_feat`` this takes the place of.

    Raises:
        UserError: It has no ``extract_feat`` or no ``loss``, as MMDetection's have, or
            is compiled, and so would not see what takes their place.
    """

    def __init__(self, model: nn.Module) -> None:
        if not (hasattr(model, 'extract_feat') and hasattr(model, 'loss')):
            raise UserError(f'{type(model).__name__} is no detector of MMDetection')
        if {'forward', 'val_step'} & vars(model).keys():
            raise UserError('the detector is compiled')
        self.model: Any = model  # a detector, whose methods nn.Module does not know
        self.images: Tensor | None = None
        self._extract: Callable[..., Any] = self.model.extract_feat
        self._maps: Any = None
        self.model.extract_feat = self

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        if images is not self.images:
            self._maps = self._extract(images, *args, **kwargs)
            self.images = images
        return self._maps

    def forget(self) -> None:
        """Frees the memory of the maps."""
        self.images = self._maps = None

    def put_back(self) -> None:
        """Undoes what the constructor did to the detector."""
        self.model.__dict__.pop('extract_feat', None)


@dataclass
class Tally:
    """What one process has of the losses of one validation.

    Attributes:
        maps: Those of the detector that is validated; ``None`` before its first batch.
        sums: Of each loss over the images.
        images: How many these are.
        seen: All images that this process has met, those included that the sampler
            gives a second time so that each process has as many.
        problem: Why there are no losses.
    """

    maps: KeptMaps | None = None
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seen: int = 0
    problem: str = ''


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Logs the loss of the validation data beside that of training.

    The terms are those of training, of the model that is validated: with averaged
    weights where the run averages, BatchNorms and dropout as in evaluation. The loss
    is a mean over the images of all processes, in the measure of the training loss:
    heads that multiply by the images of a batch and by the processes do so by those of
    training. The maps of backbone and neck that the predictions come from are used
    again. Random numbers, which some heads draw to choose samples, are the same in
    each validation, and change nothing for the training.

    Logs have ``val/loss``, ``val/loss_cls`` and so on. They are not among the metrics,
    so that no best checkpoint is chosen by them. Where a detector or a pipeline cannot,
    one line says why, and the run goes on without.
    """

    # Its end comes before LoggerHook's. At its beginning the model is not yet the one
    # that is validated, so that it begins with the first batch.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._tally: Tally | None = None
        self._problem = ''  # for the rest of the run

    def before_run(self, runner: Runner) -> None:
        self._end()  # after a validation that was interrupted

    def before_val_epoch(self, runner: Runner) -> None:
        self._end()
        hub = runner.message_hub
        for name in [*hub.log_scalars]:
            if name.startswith(_log_prefix(runner) + 'loss'):
                # Logs would show them all along, and means over several validations.
                del hub.log_scalars[name]
        training = not isinstance(runner._train_loop, dict | None)
        if training and not self._problem:
            self._tally = Tally()

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        tally = self._tally
        if tally is not None and tally.maps is None and not tally.problem:
            try:
                tally.maps = KeptMaps(unwrap_model(runner))
            except UserError as error:
                tally.problem = str(error)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[DetDataSample] | None = None,
    ) -> None:
        tally = self._tally
        if tally is None or tally.problem or tally.maps is None:
            return
        samples = list(outputs or ())
        try:
            with drawing_apart(
                run_seed(runner), Stream.VALIDATION_LOSS, get_rank(), batch_idx
            ):
                losses = compute_losses(runner, tally.maps, samples)
        except Exception as error:  # of any head, which must not end the training
            kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
            tally.problem = (kind + shorten(error, 300)).rstrip(': ')
            return
        finally:
            tally.maps.forget()
        total = len(runner.val_dataloader.dataset)
        first = tally.seen * get_world_size() + get_rank()
        places = range(first, total, get_world_size())
        tally.seen += len(samples)
        own = min(len(samples), len(places))  # the rest was counted at its first time
        tally.images += own
        for name, loss in losses.items():
            tally.sums[name] = tally.sums.get(name, 0) + loss * own

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        tally = self._tally
        self._end()
        if tally is None:
            return
        own = (tally.problem, tally.sums, tally.images)
        problems, sums, images = zip(*all_gather_object(own))
        self._problem = next(filter(None, problems), '')
        if self._problem:
            runner.logger.warning(
                f'The validation loss is not computed: {self._problem}. The rest goes '
                'on as ever; default_hooks.val_loss=None saves the attempt'
            )
            return
        losses = average(sums, images)
        bad = [name for name, loss in losses.items() if not abs(loss) < float('inf')]
        if bad:
            runner.logger.warning(
                f'The validation loss is NaN or infinite ({first_few(bad)}), and so '
                'is not logged'
            )
            return
        for name, loss in losses.items():
            runner.message_hub.update_scalar(_log_prefix(runner) + name, loss)

    def _end(self) -> None:
        if self._tally is not None and self._tally.maps is not None:
            self._tally.maps.put_back()
        self._tally = None


def _log_prefix(runner: Runner) -> str:
    """What MMEngine's logs take as the beginning of ``val/loss``."""
    # It takes one val/ away, unless logs are to have train/ and val/ everywhere.
    hierarchy = getattr(runner.log_processor, 'log_with_hierarchy', False)
    return 'val/' if hierarchy else 'val/val/'


def average(
    sums: Sequence[Mapping[str, float]], images: Sequence[int]
) -> dict[str, float]:
    """Means over the images of all processes.

    Args:
        sums: Of each process, by the names of the losses.
        images: Of each process.
    """
    total = sum(images)
    names = dict.fromkeys(name for part in sums for name in part)
    return {
        name: sum(part.get(name, 0) for part in sums) / total for name in names if total
    }


def compute_losses(
    runner: Runner, maps: KeptMaps, samples: list[DetDataSample]
) -> dict[str, float]:
    """The losses of a batch, in the measure of those that training logs.

    Args:
        runner: A run.
        maps: The detector, with the maps of the batch.
        samples: Its images, with the boxes of the annotations.

    Raises:
        UserError: There are no boxes of annotations, or where they lie is not known.
    """
    if maps.images is None:
        raise UserError('the detector does not call its extract_feat')
    model, images = maps.model, maps.images
    resized = {
        are_boxes_resized(part) for part in list_datasets(runner.val_dataloader.dataset)
    }
    if len(resized) > 1:
        raise UserError('the pipelines of its datasets load annotations differently')
    truths = [place_truth(sample, *resized) for sample in samples]
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if getattr(preprocessor, 'pad_mask', False):
        preprocessor.pad_gt_masks(truths)
    fp16 = getattr(runner.val_loop, 'fp16', False)
    with (
        as_in_training(model),
        without_other_processes(),
        torch.autocast(images.device.type, enabled=fp16),
    ):
        _, losses = model.parse_losses(model.loss(images, truths))
    by_images, by_processes = find_factors(model)
    factor = float(get_world_size() if by_processes else 1)
    if by_images:
        factor *= runner.train_dataloader.batch_sampler.batch_size / len(samples)
    return {
        name: loss.float().item() * factor
        for name, loss in losses.items()
        if 'loss' in name
    }


def find_factors(model: nn.Module) -> tuple[bool, bool]:
    """Whether a detector's losses are multiplied by images, and by processes."""
    head = getattr(model, 'bbox_head', None)
    for cls in type(head).__mro__:
        of_library = cls.__module__.startswith(('mmyolo.', 'mmdet.'))
        if of_library and 'loss_by_feat' in vars(cls):
            return MULTIPLIED.get(cls.__name__, (False, False))
    return False, False


def are_boxes_resized(dataset: Any) -> bool:
    """Whether the boxes of a dataset's samples lie as in the image that is resized.

    They do where the pipeline loads them before it resizes. Those of MMDetection's and
    MMYOLO's recipes load them afterwards, as they are in the annotations.

    Raises:
        UserError: It loads none, or changes the image before and afterwards.
    """
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    names = [type(transform).__name__ for transform in transforms]
    places = [i for i, one in enumerate(transforms) if getattr(one, 'with_bbox', False)]
    if not places:
        raise UserError(
            'the validation pipeline loads no boxes: it has no '
            "dict(type='LoadAnnotations', with_bbox=True)"
        )
    before = [n for n in names[: places[0]] if not n.startswith('Load')]
    after = [n for n in names[places[0] + 1 :] if not n.startswith(HARMLESS)]
    if before and after:
        raise UserError(
            f'the validation pipeline changes the image before it loads boxes '
            f'({first_few(before)}) and afterwards ({first_few(after)}): move '
            'LoadAnnotations to its beginning'
        )
    return not before


def place_truth(sample: DetDataSample, resized: bool) -> DetDataSample:
    """A sample of the validation with its boxes where they lie in the network's input.

    Args:
        sample: An image with ``gt_instances``; it stays as it is.
        resized: Whether they lie there already.

    Raises:
        UserError: It has none, or the image was turned over.
    """
    if 'gt_instances' not in sample:
        raise UserError('the validation data come without boxes of annotations')
    placed = sample.new()
    for key in {'gt_instances', 'ignored_instances'} & set(sample.keys()):
        instances = sample.get(key)
        placed.set_field(_place_instances(instances, sample, resized), key)
    return placed


def _place_instances(
    instances: InstanceData, sample: DetDataSample, resized: bool
) -> InstanceData:
    placed = instances.new()
    boxes = get_box_tensor(instances.bboxes).clone()  # (N, 4) as x1, y1, x2, y2
    if not resized:
        if sample.get('flip'):
            raise UserError('the validation pipeline turns images over')
        top, _, left, _ = sample.get('pad_param', (0, 0, 0, 0))
        boxes *= boxes.new_tensor(sample.scale_factor).repeat(2)
        boxes += boxes.new_tensor([float(left), float(top)]).repeat(2)
        if 'masks' in instances:
            if top or left:
                raise UserError('the validation pipeline pads masks at their left')
            placed.masks = instances.masks.resize(sample.img_shape[:2])
    placed.bboxes = boxes
    return placed


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Has a detector give what its losses are made of, by layers as in evaluation.

    Some heads give a part of their outputs in training only. Layers such as BatchNorms
    and dropouts, and torch's own modules that hold some, stay as they are.
    """
    before = {module: module.training for module in model.modules()}
    for module in before:
        composed = any(True for _ in module.children())
        module.training = composed and not type(module).__module__.startswith('torch.')
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def without_other_processes() -> Iterator[None]:
    """Has heads average over this process alone.

    A process that a signal ends in the midst of a validation leaves the others waiting
    for what it would have sent.
    """
    distributed: Any = torch.distributed
    is_initialized = distributed.is_initialized
    distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        distributed.is_initialized = is_initialized
