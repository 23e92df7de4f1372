"""The first training batches, drawn as the model saw them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..engine.runner import unwrap_model
from ..runtime import encode_image
from ..utils.files import atomic_write
from ..utils.messages import tell
from ..visualization.marks import Mark, draw_marks
from ..visualization.sheets import draw_contact_sheet

COLOURS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#f0e442')
FOLDER = 'batches'  # in the folder of a run
BATCHES = 3
IMAGES = 8  # of a batch that are drawn
SIDE = 320  # pixels of the longer side of each


def undo_normalization(preprocessor: nn.Module, inputs: Tensor) -> np.ndarray:
    """What a model was given, as images again.

    Args:
        preprocessor: The model's data preprocessor.
        inputs: (B, C, H, W), as it has made them: grey, colours, or these and more.

    Returns:
        (B, H, W, 3), RGB, uint8.
    """
    images = inputs.detach().float()
    if getattr(preprocessor, '_enable_normalize', False):
        images = images * preprocessor.std + preprocessor.mean
    images = images[:, :3].expand(-1, 3, -1, -1)
    turned = getattr(preprocessor, 'turns', False)
    if not (getattr(preprocessor, '_channel_conversion', False) or turned):
        images = images.flip(1)  # OpenCV's order, BGR, was kept
    images = images.clamp(0, 255).round().to('cpu', torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().numpy()  # B H W C


def list_boxes(samples: Any, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes (n, 4) and labels (n,) of the images of a batch.

    Args:
        samples: MMDetection's data samples, or MMYOLO's dict of all boxes.
        count: How many images there are.
    """
    if isinstance(samples, dict):
        rows = samples['bboxes_labels'].detach().cpu().numpy()  # image, label, box
        of_images = [rows[rows[:, 0] == image] for image in range(count)]
        return [(found[:, 2:6], found[:, 1].astype(int)) for found in of_images]
    instances = [sample.gt_instances for sample in samples]
    return [
        (get_box_tensor(i.bboxes).detach().cpu().numpy(), i.labels.cpu().numpy())
        for i in instances
    ]


def draw_batch(
    preprocessor: nn.Module, batch: dict, classes: Sequence[str]
) -> np.ndarray:
    """A sheet of the images of a batch with their boxes, (h, w, 3), RGB, uint8.

    Args:
        preprocessor: The model's data preprocessor.
        batch: What it has made for training.
        classes: Names of the labels.
    """
    images = undo_normalization(preprocessor, batch['inputs'][:IMAGES])
    drawn = []
    for image, (boxes, labels) in zip(
        images, list_boxes(batch['data_samples'], len(images))
    ):
        marks = [
            Mark(box, COLOURS[label % len(COLOURS)], classes[label])
            for box, label in zip(boxes, labels)
        ]
        drawn.append(draw_marks(image, marks, SIDE, 11))
    return draw_contact_sheet(drawn, columns=4, gap=6)


def encode_jpeg(image: np.ndarray) -> bytes:
    """The file of an image (H, W, 3), RGB, uint8."""
    return encode_image(Path('image.jpg'), image[..., ::-1], 85)


def write_batches(folder: Path, sheets: Sequence[np.ndarray]) -> None:
    """Writes drawn batches into a new folder, all of them or none."""
    with atomic_write(folder) as scratch:
        scratch.mkdir()
        for number, sheet in enumerate(sheets, start=1):
            (scratch / f'batch_{number}.jpg').write_bytes(encode_jpeg(sheet))


class BatchesHook(Hook):
    """Draws the first batches of a new training into ``batches`` in its folder.

    It sees what the data preprocessor gives, so that all augmentation is in it and no
    random number is drawn for it.
    """

    def __init__(self) -> None:
        self._sheets: list[np.ndarray] = []
        self._handle: Any = None

    @master_only
    def before_train(self, runner: Runner) -> None:
        if runner.iter > 0 or Path(runner.work_dir, FOLDER).exists():
            return
        preprocessor = getattr(unwrap_model(runner), 'data_preprocessor', None)
        classes = runner.train_dataloader.dataset.metainfo.get('classes')
        if isinstance(preprocessor, nn.Module) and classes:
            draw = partial(self._draw, runner, classes)
            self._handle = preprocessor.register_forward_hook(draw, with_kwargs=True)

    def _draw(
        self,
        runner: Runner,
        classes: Sequence[str],
        preprocessor: nn.Module,
        args: tuple,
        kwargs: dict,
        output: dict,
    ) -> None:
        """torch calls it behind the preprocessor; a training goes on in any case."""
        if not (args[1] if len(args) > 1 else kwargs.get('training')):
            return
        try:
            self._sheets.append(draw_batch(preprocessor, output, classes))
        except Exception as error:  # of a model that is fed in another way
            self._take_off()
            runner.logger.warning(
                f'The first batches are not drawn: {type(error).__name__}: '
                f'{tell(error)}'
            )

    @master_only
    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if len(self._sheets) == BATCHES:
            self._write(runner)

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        self._take_off()
        sheets, self._sheets = self._sheets, []
        if not sheets:
            return
        try:
            write_batches(Path(runner.work_dir, FOLDER), sheets)
        except OSError as error:
            runner.logger.warning(f'The first batches are not drawn: {tell(error)}')

    def _take_off(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
