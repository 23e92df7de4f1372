"""Comparing an exported file with the detector in torch, on real images.

In two steps. All candidates of the file's network are compared with torch's, where
nothing is left to chance. Then what is found in the end must be the outcome of
non-maximum suppression of torch's candidates: by the file through the runtime, and, so
that resizing and decoding are compared with something independent, by MMYOLO's own
prediction. An outcome is judged by what defines it rather than against another one,
since rounding decides which of two equal scores wins.
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

from ..runtime import Detections, Detector, Layout, lay_out, resize, stack, to_image
from .candidates import Candidates
from .onnx import Run

SCORE = 1e-3  # drift that float32 is allowed
PIXELS = 0.1


@dataclass
class Drift:
    """How far a file is from torch, over all images.

    Attributes:
        images: How many were looked at in the end.
        found: Detections of MMYOLO in them.
        largest: The largest difference by output: scores from 0 to 1, boxes in pixels
            of the network's input, or for MMYOLO's of the image.
        overlapping: Detections that suppression should not have left.
        missing: Candidates that it should have.
    """

    images: int = 0
    found: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    overlapping: int = 0
    missing: int = 0

    def add(self, output: str, difference: float) -> None:
        largest = np.maximum(self.largest.get(output, 0.0), difference)  # NaN stays
        self.largest[output] = float(largest)

    def not_finite(self) -> list[str]:
        """Outputs that were NaN or infinite, in words."""
        bad = [name for name, value in self.largest.items() if not np.isfinite(value)]
        return [f'{name} are not all finite' for name in bad]

    def faults(self) -> list[str]:
        """What is beyond the tolerance, in words; for float32."""
        faults = []
        for output, value in self.largest.items():
            limit = PIXELS if output.endswith('boxes') else SCORE
            if not value <= limit:  # NaN, too
                faults.append(f'{output} differ by {value:.3g} ({limit:g} is allowed)')
        if self.overlapping:
            faults.append(f'{self.overlapping} detections should be suppressed')
        if self.missing:
            faults.append(f'{self.missing} detections are missing')
        return faults

    def __str__(self) -> str:
        differences = (f'{name} {value:.2g}' for name, value in self.largest.items())
        found = f', {self.found} detections in {self.images} images'
        return (
            f'largest differences: {", ".join(differences) or "none"}'
            f'{found if self.images else ""}'
        )


def batches(
    images: Iterable[np.ndarray], facts: dict[str, object]
) -> Iterable[np.ndarray]:
    """The network's inputs (B, 3, H, W) for images, as the runtime makes them.

    What is left over for the last batch is filled up by its last image.

    Args:
        images: H x W x 3, BGR, uint8.
        facts: The metadata.
    """
    size = facts['input']['batch'] or 2
    waiting: list[tuple[np.ndarray, Layout]] = []
    for image in images:
        layout = lay_out(image.shape[:2], facts['resize'])
        waiting.append((resize(image, layout), layout))
        if len(waiting) == size:
            yield stack(waiting, size)
            waiting = []
    if waiting:
        yield stack(waiting + waiting[-1:] * (size - len(waiting)), size)


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
    detector: nn.Module, cfg: Config, images: Sequence[np.ndarray]
) -> list[Detections]:
    """What the detector finds by MMDetection's own API, for each image (BGR).

    Args:
        detector: With a ``cfg``, as MMDetection's API wants it.
        cfg: Config whose test pipeline has the exported file's size.
        images: H x W x 3, BGR, uint8.
    """
    pipeline = [
        dict(t, type='mmdet.LoadImageFromNDArray') if i == 0 else t
        for i, t in enumerate(cfg.test_dataloader.dataset.pipeline)
        if not t['type'].endswith('LoadAnnotations')
    ]
    samples = inference_detector(detector, list(images), Compose(pipeline))
    return [
        Detections(*(x.cpu().numpy() for x in (p.bboxes, p.scores, p.labels)))
        for p in (sample.pred_instances for sample in samples)
    ]


@dataclass
class Outcome:
    """What suppression may leave of one image's candidates.

    Args:
        boxes: (N, 4), in pixels of the network's input.
        scores: (N, C).
        nms: ``score_thr``, ``iou_threshold`` and ``max_per_img``.
        drift: Gets what is wrong; has what rounding did to the candidates.
    """

    boxes: np.ndarray
    scores: np.ndarray
    nms: dict[str, object]
    drift: Drift

    def judge(
        self, found: Detections, name: str = '', layout: Layout | None = None
    ) -> None:
        """Finds what is wrong with detections.

        Each must be a candidate of its class. Two of a class may not overlap by more
        than the threshold. And each candidate must be there, or be suppressed by one
        that is and that scores no less, or score no more than the last of as many as
        there may be. Values that differ by what rounding did to the candidates are
        equal, as are overlaps within :data:`SCORE`.

        Args:
            found: Detections, in pixels of the network's input or of the image.
            name: Whose they are, for the names of the differences.
            layout: Where the image lies in the input, if they are in its pixels.
                Boxes that reach out of it are then alike; all of these count as found,
                and may overlap.
        """
        drift, threshold = self.drift, self.nms['iou_threshold']
        slack = rounding(drift, 'candidate scores', SCORE)
        near = rounding(drift, 'candidate boxes', PIXELS)
        seen = self.boxes
        if layout is not None:
            near, seen = near / min(layout.factor), to_image(seen, layout)
        least = self.nms['score_thr']
        most = self.nms['max_per_img']
        if len(found.scores) >= most:
            least = max(least, float(found.scores.min()))
        drift.overlapping += max(len(found.scores) - most, 0)
        for label in range(self.scores.shape[1]):
            rows = (self.scores[:, label] > self.nms['score_thr'] - SCORE).nonzero()[0]
            mine = (found.labels == label).nonzero()[0]
            if not len(rows):
                for score in found.scores[mine]:  # of no candidate
                    drift.add(f'{name}scores', float(score))
                continue
            boxes, scores = self.boxes[rows], self.scores[rows, label]
            kept = np.zeros(len(rows), bool)
            for box, score in zip(found.boxes[mine], found.scores[mine]):
                far = np.abs(seen[rows] - box).max(1)
                apart = np.abs(scores - score)
                i = int((far / near + apart / slack).argmin())
                drift.add(f'{name}boxes', float(far[i]))
                drift.add(f'{name}scores', float(apart[i]))
                if layout is not None:
                    kept |= (far <= near) & (apart <= slack)
                elif kept.any():
                    worst = iou(boxes[kept], boxes[i : i + 1]).max()
                    drift.overlapping += bool(worst > threshold + SCORE)
                kept[i] = True
            lost = (scores > least + slack) & ~kept
            covers = iou(boxes[lost], boxes[kept]) > threshold - SCORE
            covers &= scores[kept] >= scores[lost, None] - slack
            drift.missing += int((~covers.any(1)).sum())


def rounding(drift: Drift, output: str, most: float) -> float:
    """How far apart equal values may be: twice what was found, within reason."""
    found = drift.largest.get(output, 0.0)
    return float(np.clip(2 * np.nan_to_num(found), most / 1000, most))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlaps (N, M) of boxes (N, 4) and (M, 4), in float64."""
    return box_iou(Tensor(a).double(), Tensor(b).double()).numpy()


def compare(
    exported: Detector,
    detector: nn.Module,
    cfg: Config,
    images: Sequence[np.ndarray],
    drift: Drift,
) -> None:
    """Adds what is wrong with what a file finds in ``images`` to ``drift``.

    Args:
        exported: The runtime with the exported file.
        detector: The detector in torch, see :func:`by_torch`.
        cfg: See :func:`by_torch`.
        images: H x W x 3, BGR, uint8. They go through the file together.
        drift: After :func:`compare_candidates`, whose differences it allows.
    """
    test_cfg = detector.bbox_head.test_cfg  # not the file's, which may be wrong
    nms = dict(
        score_thr=test_cfg.get('score_thr', 0.0),
        iou_threshold=test_cfg.nms.iou_threshold,
        max_per_img=test_cfg.max_per_img,
    )
    plain = Candidates(detector, fold=False)
    prepared = [exported.prepare(image) for image in images]
    size = exported.metadata['input']['batch'] or 2
    for start in range(0, len(prepared), size):
        batch = prepared[start : start + size]
        inputs = stack(batch, size)
        outputs = exported.session.run(inputs)
        with torch.inference_mode():
            boxes, scores = (x.numpy() for x in plain(torch.from_numpy(inputs)))
        for row, (_, layout) in enumerate(batch):
            (theirs,) = by_torch(detector, cfg, [images[start + row]])
            outcome = Outcome(boxes[row], scores[row], nms, drift)
            outcome.judge(exported.left({k: v[row] for k, v in outputs.items()}))
            outcome.judge(theirs, "MMYOLO's ", layout)
            drift.images += 1
            drift.found += len(theirs.scores)
