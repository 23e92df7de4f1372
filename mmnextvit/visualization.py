"""One picture that shows what a detector finds: predictions beside the truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


def contact_sheet(
    pictures: Sequence[np.ndarray], columns: int, gap: int = 8, colour: int = 255
) -> np.ndarray:
    """Lays pictures out in rows, each in the middle of a cell of the largest size.

    Args:
        pictures: H x W x 3 each, uint8; sizes may differ.
        columns: Pictures in a row.
        gap: Pixels between them and around all.
        colour: Grey value of what they leave free, 0 to 255.

    Returns:
        The sheet, H x W x 3, uint8.
    """
    height = max(p.shape[0] for p in pictures) + gap
    width = max(p.shape[1] for p in pictures) + gap
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full(
        (rows * height + gap, columns * width + gap, 3), colour, dtype=np.uint8
    )
    for i, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        y = i // columns * height + gap + (height - gap - h) // 2
        x = i % columns * width + gap + (width - gap - w) // 2
        sheet[y : y + h, x : x + w] = picture
    return sheet


def draw_pair(
    picture: np.ndarray,
    sample: DetDataSample,
    visualizer: DetLocalVisualizer,
    score_thr: float = 0.3,
    least: int = 320,
) -> np.ndarray:
    """A picture twice, with the truth (left) and the predictions (right).

    Args:
        picture: H x W x 3, RGB, uint8.
        sample: Boxes in pixels of ``picture``.
        visualizer: MMDetection's, with the classes in its ``dataset_meta``.
        score_thr: Least score of a prediction that is drawn.
        least: Length in pixels up to which the longer side is enlarged, so that boxes
            and labels of small pictures can be told apart.

    Returns:
        The pair with a caption above it, RGB.
    """
    scale = max(1.0, least / max(picture.shape[:2]))
    picture = cv2.resize(picture, None, fx=scale, fy=scale)
    sample = sample.cpu().clone()
    for instances in (sample.gt_instances, sample.pred_instances):
        instances.bboxes = get_box_tensor(instances.bboxes) * scale
    visualizer.add_datasample('', picture, sample, pred_score_thr=score_thr)
    pair = visualizer.get_image()
    caption = np.full((24, pair.shape[1], 3), 255, dtype=np.uint8)
    for text, x in (('truth', 4), ('prediction', pair.shape[1] // 2 + 4)):
        cv2.putText(
            caption, text, (x, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA
        )
    return np.vstack([caption, pair])


@HOOKS.register_module()
class ContactSheetHook(Hook):
    """Draws the first pictures of every validation and test into one file.

    The file is ``predictions.jpg`` in the work dir; the next validation replaces it.

    Args:
        count: Pictures to draw.
        score_thr: Least score of a prediction that is drawn.
    """

    def __init__(self, count: int = 8, score_thr: float = 0.3) -> None:
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
                picture = mmcv.imread(sample.img_path, channel_order='rgb')
                self._pairs.append(
                    draw_pair(picture, sample, self._visualizer, self.score_thr)
                )

    @master_only
    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            sheet = contact_sheet(self._pairs, columns=2)
            path = Path(runner.work_dir, 'predictions.jpg')
            mmcv.imwrite(sheet[..., ::-1], str(path))
            runner.logger.info(f'Predictions are drawn in {path}')
