"""Images of what a detector finds (beside the truth) and of its feature maps."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..models.yolov5_rows import RowGraph


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, gap: int = 8, colour: int = 255
) -> np.ndarray:
    """Lays images out in rows, each in the middle of a cell of the largest size.

    Args:
        images: H x W x 3 each, uint8; sizes may differ.
        columns: Images in a row.
        gap: Pixels between them and around all.
        colour: Grey value of what they leave free, 0 to 255.

    Returns:
        The sheet, H x W x 3, uint8.
    """
    height = max(p.shape[0] for p in images) + gap
    width = max(p.shape[1] for p in images) + gap
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full(
        (rows * height + gap, columns * width + gap, 3), colour, dtype=np.uint8
    )
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        y = i // columns * height + gap + (height - gap - h) // 2
        x = i % columns * width + gap + (width - gap - w) // 2
        sheet[y : y + h, x : x + w] = image
    return sheet


def captioned(
    image: np.ndarray,
    lines: Sequence[str],
    size: float = 0.5,
    least: int = 0,
    indent: int = 1,
) -> np.ndarray:
    """An image below lines of text, widened in white to the text where it is longer.

    Args:
        image: H x W x 3, uint8.
        lines: What to write, ASCII; OpenCV's fonts have nothing else.
        size: Of the letters; 0.5 is about 11 pixels high.
        least: Least width of the whole in pixels.
        indent: Pixels left of the text.
    """
    font, step = cv2.FONT_HERSHEY_SIMPLEX, round(40 * size)
    widths = [cv2.getTextSize(line, font, size, 1)[0][0] for line in lines]
    height, width = image.shape[:2]
    top = len(lines) * step + 6
    width_of_all = max(width, least, 2 * indent + max(widths))
    sheet = np.full((top + height, width_of_all, 3), 255, dtype=np.uint8)
    sheet[top:, :width] = image
    for i, line in enumerate(lines, start=1):
        at = indent, i * step - 2
        cv2.putText(sheet, line, at, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


@contextmanager
def feature_maps(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the maps that a detector computes while the context is open.

    These are the backbone's maps and the neck's, row by row where the part is a
    :class:`RowGraph` of YOLOv5's YAML.

    Args:
        model: A detector with a ``backbone`` and maybe a ``neck``.

    Yields:
        The first image's map (C, H, W) by name, on the CPU in float32, in the order
        of computation. Names are 'backbone P3', 'neck P3' (P3 has 1/2**3 of the
        image's width) and '05 SPPF' (row and module). A further image replaces
        them.
    """
    maps: dict[str, Tensor] = {}
    width = 0  # of the image that is computed

    def begin(module: nn.Module, args: tuple) -> None:
        nonlocal width
        maps.clear()
        width = args[0].shape[-1]

    def keep(name: str, output: Tensor) -> None:
        # A copy: the next module may work in place.
        maps[name] = output[0].detach().to('cpu', torch.float32, copy=True)

    def keep_row(name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        keep(name, output)

    def keep_levels(
        part: str, module: nn.Module, args: tuple, outputs: Tensor | Sequence[Tensor]
    ) -> None:
        for i, output in enumerate([outputs] if torch.is_tensor(outputs) else outputs):
            name = f'{part} P{round(math.log2(width / output.shape[-1]))}'
            keep(f'{name} map {i}' if name in maps else name, output)

    hooks = [model.backbone.register_forward_pre_hook(begin)]
    for part in ('backbone', 'neck'):
        module = getattr(model, part, None) or nn.Identity()
        graphs = [m for m in module.modules() if isinstance(m, RowGraph)]
        for graph in graphs:
            for row in graph.rows:
                hook = partial(keep_row, f'{row.number:02d} {row.module}')
                hooks.append(graph[str(row.number)].register_forward_hook(hook))
        if not graphs:
            hooks.append(module.register_forward_hook(partial(keep_levels, part)))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def heat(feature_map: Tensor, side: int) -> np.ndarray:
    """One channel (H, W) in colours from its least to its largest value, RGB.

    The longer side gets ``side`` pixels; cells stay visible. What is not finite is
    drawn as zero.
    """
    finite = torch.nan_to_num(feature_map, 0, 0, 0)
    colours = Visualizer.draw_featmap(finite[None])
    scale = side / max(finite.shape)
    size = [max(1, round(x * scale)) for x in (finite.shape[1], finite.shape[0])]
    return cv2.resize(
        colours, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    )


def shape_of(feature_map: Tensor) -> str:
    return 'x'.join(map(str, feature_map.shape))


def draw_channels(
    name: str, feature_map: Tensor, count: int = 32, columns: int = 8, side: int = 160
) -> np.ndarray:
    """The first channels of a map, each in colours of its own range.

    Args:
        name: For the title.
        feature_map: (C, H, W).
        count: Most channels to draw.
        columns: Channels in a row.
        side: Pixels of a channel's longer side.

    Returns:
        The image with a title, H x W x 3, RGB, uint8.
    """
    shown = feature_map[:count]
    sheet = contact_sheet([heat(channel, side) for channel in shown], columns, gap=6)
    finite = feature_map[feature_map.isfinite()]
    values = 'no finite value'
    if len(finite):
        values = f'values {finite.min():.3g} to {finite.max():.3g}'
    if len(finite) < feature_map.numel():
        values += f', {feature_map.numel() - len(finite)} not finite (drawn as 0)'
    lines = (
        f'{name}, {shape_of(feature_map)} (channels x height x width), {values}',
        f'channels 0 to {len(shown) - 1} of {len(feature_map)}, row by row, '
        'each from its least value (blue) to its largest (red)',
    )
    return captioned(sheet, lines, indent=6)


def draw_overview(
    image: np.ndarray, maps: dict[str, Tensor], columns: int = 5, side: int = 220
) -> np.ndarray:
    """The image and, for every map, the mean of its channels.

    Args:
        image: What the network saw, H x W x 3, RGB, uint8.
        maps: (C, H, W) each, by name, as of :func:`feature_maps`.
        columns: Images in a row.
        side: Pixels of the longer side of each.

    Returns:
        The image with a title, H x W x 3, RGB, uint8.
    """
    scale = side / max(image.shape[:2])
    size = f'{image.shape[0]}x{image.shape[1]}'
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tiles = [captioned(image, ('the input', size), 0.45, side)]
    for name, feature_map in maps.items():
        mean = heat(feature_map.mean(0), side)
        tiles.append(captioned(mean, (name, shape_of(feature_map)), 0.45, side))
    title = (
        'Mean over the channels, each from its least value (blue) to its largest (red)'
    )
    return captioned(contact_sheet(tiles, columns, gap=12), (title,), indent=12)


def draw_pair(
    image: np.ndarray,
    sample: DetDataSample,
    visualizer: DetLocalVisualizer,
    score_thr: float = 0.3,
    least: int = 320,
) -> np.ndarray:
    """An image twice, with the truth (left) and the predictions (right).

    Args:
        image: H x W x 3, RGB, uint8.
        sample: Boxes, and maybe predicted masks, in pixels of ``image``.
        visualizer: MMDetection's, with the classes in its ``dataset_meta``.
        score_thr: Least score of a prediction that is drawn.
        least: Length in pixels up to which the longer side is enlarged, so that boxes
            and labels of small images can be told apart.

    Returns:
        The pair with a caption above it, RGB.
    """
    scale = max(1.0, least / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale)
    sample = sample.cpu().clone()
    if 'bboxes' not in sample.gt_instances:  # images without annotations
        nothing = torch.zeros(0, dtype=torch.long)
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=nothing)
    for instances in (sample.gt_instances, sample.pred_instances):
        instances.bboxes = get_box_tensor(instances.bboxes) * scale
        if 'masks' in instances and len(instances):
            masks = instances.masks
            if isinstance(masks, BaseInstanceMasks):  # the truth's
                masks = masks.to_ndarray()
            masks = torch.as_tensor(masks).float()[None]  # 1 N H W
            instances.masks = interpolate(masks, image.shape[:2])[0].bool()
    drawn = []
    # From get_image matplotlib would draw the pair anew, a third of the time.
    with patch.object(
        visualizer, 'add_image', lambda name, pair, *_: drawn.append(pair)
    ):
        visualizer.add_datasample('', image, sample, pred_score_thr=score_thr)
    (pair,) = drawn
    caption = np.full((24, pair.shape[1], 3), 255, dtype=np.uint8)
    for text, x in (('truth', 4), ('prediction', pair.shape[1] // 2 + 4)):
        cv2.putText(
            caption, text, (x, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA
        )
    return np.vstack([caption, pair])


@HOOKS.register_module()
class ContactSheetHook(Hook):
    """Draws the first images of every validation and test into one file.

    The file is ``predictions.jpg`` in the work dir; the next validation replaces it.

    Args:
        count: Images to draw.
        score_thr: Least score of a prediction that is drawn.
    """

    def __init__(self, count: int = 4, score_thr: float = 0.3) -> None:
        self.count = count
        self.score_thr = score_thr

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            self._pairs = []
            self._visualizer = DetLocalVisualizer()
            dataset = getattr(runner, f'{mode}_dataloader').dataset
            self._visualizer.dataset_meta = dataset.metainfo

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] | dict | None = None,
        mode: str = 'train',
    ) -> None:
        if mode != 'train' and is_main_process():  # MMEngine's visualizer draws there
            for sample in outputs[: self.count - len(self._pairs)]:
                image = mmcv.imread(sample.img_path, channel_order='rgb')
                self._pairs.append(
                    draw_pair(image, sample, self._visualizer, self.score_thr)
                )

    @master_only
    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train' and self._pairs:
            sheet = contact_sheet(self._pairs, columns=2)
            path = Path(runner.work_dir, 'predictions.jpg')
            mmcv.imwrite(sheet[..., ::-1], str(path))
            runner.logger.info(f'Predictions are drawn in {path}')
