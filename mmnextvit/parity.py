"""Comparing an exported file with the detector in torch, on real pictures.

Twice: the network's candidates, every one of them, where nothing is left to chance; and
what is found in the end, through MMYOLO's own prediction on one side and the runtime on
the other, so that resizing, decoding and suppression are compared, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
from mmengine.config import Config
from torch import Tensor, nn
from torchvision.ops import box_iou

from .deploy import Candidates
from .onnx_graph import Run
from .runtime import Detections, Detector, Layout, lay_out, resize, stack

SCORE = 1e-3  # drift that float32 is allowed
PIXELS = 0.1
PAIR = 2.0  # pixels: what is further apart are two detections


@dataclass
class Drift:
    """How far a file is from torch, over all pictures.

    Attributes:
        pictures: How many were compared.
        found: Detections of torch in them.
        largest: The largest difference by output: scores from 0 to 1, boxes in pixels
            of the network's input (candidates) or of the picture (detections).
        missing: Detections of one side only, that no rounding explains.
    """

    pictures: int = 0
    found: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    missing: int = 0

    def add(self, output: str, difference: float) -> None:
        self.largest[output] = max(self.largest.get(output, 0.0), difference)

    def faults(self) -> list[str]:
        """What is beyond the tolerance, in words; for float32."""
        faults = []
        for output, value in self.largest.items():
            limit = PIXELS if output.endswith('boxes') else SCORE
            if not value <= limit:  # NaN, too
                faults.append(f'{output} differ by {value:.3g} ({limit:g} is allowed)')
        if self.missing:
            faults.append(f'{self.missing} detections are found by one side only')
        return faults

    def __str__(self) -> str:
        differences = (f'{name} {value:.2g}' for name, value in self.largest.items())
        return (
            f'{self.found} detections in {self.pictures} pictures; largest '
            f'differences: {", ".join(differences) or "none"}; {self.missing} '
            'detections of one side only'
        )


def batches(
    pictures: Iterable[np.ndarray], facts: dict[str, object]
) -> Iterable[np.ndarray]:
    """The network's inputs (B, 3, H, W) for pictures, as the runtime makes them.

    Args:
        pictures: H x W x 3, BGR, uint8.
        facts: The metadata.
    """
    size = facts['input']['batch'] or 2
    waiting: list[tuple[np.ndarray, Layout]] = []
    for picture in pictures:
        layout = lay_out(picture.shape[:2], facts['resize'])
        waiting.append((resize(picture, layout), layout))
        if len(waiting) == size:
            yield stack(waiting, size)
            waiting = []
    if waiting:
        yield stack(waiting, size)


def compare_candidates(
    run: Run, detector: nn.Module, images: Iterable[np.ndarray], drift: Drift
) -> None:
    """Adds the differences of every candidate to ``drift``.

    Args:
        run: Of the exported network.
        detector: The detector in torch; its BatchNorms are not folded here.
        images: Inputs (B, 3, H, W).
        drift: Gets 'candidate boxes', in pixels, and 'candidate scores'.
    """
    plain = Candidates(detector, fold=False)
    for image in images:
        with torch.inference_mode():
            wanted = plain(torch.from_numpy(image))
        for name, ours, theirs in zip(('boxes', 'scores'), run(image), wanted):
            difference = np.abs(ours.astype(np.float64) - theirs.numpy())
            drift.add(f'candidate {name}', float(difference.max()))


def by_torch(
    detector: nn.Module, cfg: Config, pictures: Sequence[np.ndarray]
) -> list[Detections]:
    """What the detector finds by MMDetection's own API, for each picture (BGR).

    Args:
        detector: With a ``cfg``, as MMDetection's API wants it.
        cfg: Config whose test pipeline has the exported file's size.
        pictures: H x W x 3, BGR, uint8.
    """
    pipeline = [
        dict(t, type='mmdet.LoadImageFromNDArray') if i == 0 else t
        for i, t in enumerate(cfg.test_dataloader.dataset.pipeline)
        if not t['type'].endswith('LoadAnnotations')
    ]
    samples = inference_detector(detector, list(pictures), Compose(pipeline))
    return [
        Detections(*(x.cpu().numpy() for x in (p.bboxes, p.scores, p.labels)))
        for p in (sample.pred_instances for sample in samples)
    ]


def compare_detections(
    ours: Detections, theirs: Detections, nms: dict[str, object], drift: Drift
) -> None:
    """Adds the differences of what is found in one picture to ``drift``.

    Detections are paired by class and place. One that is left over counts unless it
    hangs on a comparison that rounding may turn: a score at a limit, or an overlap
    that is just the threshold.

    Args:
        ours: What the exported file finds.
        theirs: What torch finds.
        nms: ``nms`` of the metadata.
        drift: Gets 'boxes' in pixels, 'scores', and what is missing.
    """
    drift.pictures += 1
    drift.found += len(theirs.scores)
    free = np.ones(len(ours.scores), bool)
    alone = []
    for i, (box, score, label) in enumerate(zip(*theirs)):
        apart = np.abs(ours.boxes - box).max(1, initial=0) + np.abs(ours.scores - score)
        apart[~free | (ours.labels != label)] = np.inf
        j = int(apart.argmin()) if len(apart) else -1
        if j < 0 or apart[j] > PAIR:
            alone.append(i)
            continue
        free[j] = False
        drift.add('boxes', float(np.abs(ours.boxes[j] - box).max()))
        drift.add('scores', float(abs(ours.scores[j] - score)))
    left = [(theirs, ours, alone), (ours, theirs, [*free.nonzero()[0]])]
    lone = Detections(
        *(np.concatenate([part[i][own] for part, _, own in left]) for i in range(3))
    )
    for part, other, own in left:
        for i in own:
            drift.missing += not by_rounding(part, i, other, lone, nms)


def by_rounding(
    found: Detections, i: int, other: Detections, lone: Detections, nms: dict
) -> bool:
    """Whether detection ``i``, which the other side lacks, hangs on a rounding.

    Args:
        found: One side's detections.
        i: The one in question.
        other: The other side's.
        lone: All of either side that the other lacks.
        nms: ``nms`` of the metadata.
    """
    score, limit = found.scores[i], nms['max_per_img']
    if score <= nms['score_thr'] + SCORE:
        return True
    if len(other.scores) == limit and score <= other.scores.min() + SCORE:
        return True
    overlaps = []
    for side in (other, lone):  # what may have suppressed it
        same = (side.labels == found.labels[i]) & (side.scores > score - SCORE)
        boxes = Tensor(np.stack([found.boxes[i], *side.boxes[same]])).double()
        overlaps.append(box_iou(boxes[:1], boxes[1:])[0])
    threshold = nms['iou_threshold']
    chained = (overlaps[1] > threshold - SCORE) & (overlaps[1] < 1 - SCORE)
    near = (torch.cat(overlaps) - threshold).abs() < SCORE
    return bool(near.any() or chained.any())


def compare(
    exported: Detector,
    detector: nn.Module,
    cfg: Config,
    pictures: Iterable[np.ndarray],
    drift: Drift,
) -> None:
    """Adds the differences in what is found in ``pictures`` to ``drift``.

    Args:
        exported: The runtime with the exported file.
        detector: The detector in torch, see :func:`by_torch`.
        cfg: See :func:`by_torch`.
        pictures: H x W x 3, BGR, uint8.
        drift: Grows.
    """
    for picture in pictures:
        (ours,) = exported.detect([picture])
        (theirs,) = by_torch(detector, cfg, [picture])
        compare_detections(ours, theirs, exported.metadata['nms'], drift)
