"""Comparing an exported file with the detector in torch, on real images.

The torch side is the detector as it was trained, with every BatchNorm, fed by MMYOLO's
own pipeline and preprocessing and decoded by MMYOLO's own head; it shares nothing with
what is exported. In four steps: the file's classes must be the detector's. The inputs
that the runtime makes of images must be MMYOLO's, to the pixel. All candidates of the
file's network are compared with torch's, where nothing is left to chance. Then the
detections must be the outcome of non-maximum suppression of torch's candidates: those
of the file through the runtime and, so that boxes in the image's pixels are compared,
too, those of MMYOLO's own prediction. An outcome is judged by what defines it rather
than against another one, since rounding decides which of two equal scores wins.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..engine.runner import build_array_pipeline
from ..models.image_channels import order_as_rgb
from ..runtime import (
    Detections,
    Detector,
    Layout,
    Metadata,
    ResizeStep,
    Thresholds,
    fit,
    group,
    stack,
    to_image,
)
from .job import Run

SCORE = 1e-3  # drift that float32 is allowed; also that of coefficients, of the largest
PIXELS = 0.1
MASK = 0.01  # share of a mask's pixels that may be others
MASK_PIXELS = 100  # of smaller masks the share is of so many


LIMITS = {'boxes': PIXELS, 'masks': MASK}  # of outputs, by the last word of their names


@dataclass
class Drift:
    """How far a file is from torch, over all images.

    Attributes:
        images: How many were compared up to their detections.
        detections: Those of MMYOLO in them.
        largest: The largest difference by output: scores from 0 to 1, boxes in pixels
            of the network's input, or for MMYOLO's of the image; of masks the share of
            their pixels that differ.
        overlapping: Detections that suppression should not have left.
        missing: Candidates that it should have left.
        wrong: What differs and may not in any precision, in words.
    """

    images: int = 0
    detections: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    overlapping: int = 0
    missing: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, output: str, difference: float) -> None:
        """Takes note of a difference of an output."""
        largest = np.maximum(self.largest.get(output, 0.0), difference)  # NaN stays
        self.largest[output] = float(largest)

    def __add__(self, other: 'Drift') -> 'Drift':
        total = Drift(
            self.images + other.images,
            self.detections + other.detections,
            dict(self.largest),
            self.overlapping + other.overlapping,
            self.missing + other.missing,
            self.wrong + other.wrong,
        )
        for output, difference in other.largest.items():
            total.add(output, difference)
        return total

    def list_not_finite(self) -> list[str]:
        """Outputs that were NaN or infinite, in words."""
        bad = [name for name, value in self.largest.items() if not np.isfinite(value)]
        return [f'{name} are not all finite' for name in bad]

    def list_faults(self, exact: bool = True) -> list[str]:
        """What a file may not be kept with, in words.

        Args:
            exact: Whether the file computes in float32, and must keep to the
                tolerances. In other precisions outputs must be finite.
        """
        if not exact:
            return self.wrong + self.list_not_finite()
        faults = list(self.wrong)
        for output, value in self.largest.items():
            limit = LIMITS.get(output.rpartition(' ')[2], SCORE)
            if not value <= limit:  # NaN, too
                faults.append(f'{output} differ by {value:.3g} ({limit:g} is allowed)')
        if self.overlapping:
            faults.append(f'{self.overlapping} detections should be suppressed')
        if self.missing:
            faults.append(f'{self.missing} detections are missing')
        return faults

    def __str__(self) -> str:
        differences = (f'{name} {value:.2g}' for name, value in self.largest.items())
        counts = f', {self.detections} detections in {self.images} images'
        return (
            f'largest differences: {", ".join(differences) or "none"}'
            f'{counts if self.images else ""}'
        )


# --------------------------------------------------------------------- torch's side


def predict_candidates(
    detector: nn.Module, images: np.ndarray
) -> tuple[np.ndarray, ...]:
    """All candidates by the detector in torch and by MMYOLO's parts of it.

    Args:
        detector: In eval mode.
        images: The network's inputs (B, 3, H, W), RGB, 0 to 255.

    Returns:
        Boxes (B, N, 4) and scores (B, N, C), and of a head that finds masks their
        coefficients (B, N, M) and prototypes (B, M, h, w), as
        :class:`~mmnextvit.deploy.candidates.Candidates` gives them.
    """
    head = detector.bbox_head
    order = order_as_rgb(images.shape[1])
    inputs = [image[order] for image in torch.from_numpy(images)]  # BGR, as read
    data = dict(inputs=inputs, data_samples=[DetDataSample() for _ in inputs])
    with torch.inference_mode():
        data = detector.data_preprocessor(data, False)
        maps = list(detector(**data, mode='tensor'))
        prototypes = maps[4:]  # classes, boxes, objectness and coefficients come first
        del maps[4:]
        sizes = [level.shape[2:] for level in maps[0]]
        priors = head.prior_generator.grid_priors(sizes, device=data['inputs'].device)
        levels = [
            decode_level(head, priors[i], stride, *(output[i] for output in maps))
            for i, stride in enumerate(head.featmap_strides)
        ]
    boxes, scores, *coefficients = (torch.cat(parts, 1) for parts in zip(*levels))
    if not (head.test_cfg.get('multi_label') and head.num_classes > 1):
        best = torch.zeros_like(scores).scatter_(2, scores.argmax(2, True), 1)
        scores = scores * best
    outputs = (boxes, scores, *coefficients, *prototypes)
    return tuple(values.cpu().numpy() for values in outputs)


def decode_level(
    head: nn.Module,
    priors: Tensor,
    stride: int,
    classes: Tensor,
    offsets: Tensor,
    objectness: Tensor | None = None,
    coefficients: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Boxes (B, N, 4) and scores (B, N, C) of one level's outputs (B, A * c, H, W).

    Of a head that finds masks, their coefficients (B, N, M), too.
    """

    def as_rows(output: Tensor) -> Tensor:
        anchors = output.unflatten(1, (head.num_base_priors, -1))
        return anchors.permute(0, 3, 4, 1, 2).flatten(1, 3)

    strides = offsets.new_full((len(priors),), stride)
    boxes = head.bbox_coder.decode(priors[None], as_rows(offsets), strides)
    scores = as_rows(classes).sigmoid()
    if objectness is None:
        return boxes, scores
    factor = as_rows(objectness).sigmoid()
    if coefficients is None:
        return boxes, scores * factor
    return boxes, scores * factor, as_rows(coefficients) * factor


def detect_by_torch(
    detector: nn.Module, cfg: Config, images: Sequence[np.ndarray]
) -> list[Detections]:
    """Detections by MMDetection's own API in each image, in pixels of the image.

    Args:
        detector: With a ``cfg``, as MMDetection's API wants it.
        cfg: Config whose test pipeline has the exported file's size.
        images: H x W x 3, BGR, uint8.
    """
    return [
        Detections(*(x.cpu().numpy() for x in (p.bboxes, p.scores, p.labels)))
        for p in predict_by_torch(detector, cfg, images)
    ]


def predict_by_torch(
    detector: nn.Module, cfg: Config, images: Sequence[np.ndarray]
) -> list[InstanceData]:
    """As :func:`detect_by_torch`, as MMDetection has it: with masks, if any."""
    samples = inference_detector(detector, list(images), build_array_pipeline(cfg))
    return [sample.pred_instances for sample in samples]


# ----------------------------------------------------------------------- comparisons


def make_batches(
    images: Iterable[np.ndarray], metadata: Metadata
) -> Iterator[np.ndarray]:
    """The network's inputs (B, 3, H, W) for images, as the runtime makes them.

    A batch that is not full is filled up by its last image.

    Args:
        images: H x W x 3, BGR, uint8.
        metadata: Of the file.
    """
    size = metadata['input']['batch'] or 2
    prepared = (fit(image, metadata['resize']) for image in images)
    for batch in group(prepared, size):
        yield stack(batch + batch[-1:] * (size - len(batch)), size)


def compare_classes(metadata: Metadata, detector: nn.Module) -> Drift:
    """Whether a file names the classes as the detector in torch does, in its order."""
    ours, theirs = list(metadata['classes']), list(detector.dataset_meta['classes'])
    if ours == theirs:
        return Drift()
    return Drift(wrong=[f'the classes are {ours}, not {theirs}'])


def compare_inputs(
    steps: list[ResizeStep], cfg: Config, images: Sequence[np.ndarray]
) -> Drift:
    """Whether the runtime makes of images what MMYOLO's pipeline does, to the pixel.

    Args:
        steps: ``resize`` of the metadata.
        cfg: Config whose test pipeline has the exported file's size.
        images: H x W x 3, BGR, uint8.
    """
    pipeline, drift = build_array_pipeline(cfg), Drift()
    for image in images:
        ours = stack([fit(image, steps)])[0]
        theirs = pipeline(dict(img=image, img_id=0))['inputs'].numpy()
        theirs = theirs[order_as_rgb(len(theirs))]
        if ours.shape != theirs.shape:
            fault = f'inputs have the shape {ours.shape}, not {theirs.shape}'
        elif difference := float(np.abs(ours - theirs).max()):
            fault = f'pixels of the input differ by {difference:g}'
        else:
            continue
        height, width = image.shape[:2]
        drift.wrong.append(f'{fault}, for an image of {height}x{width}')
    return drift


CANDIDATES = ('boxes', 'scores', 'coefficients', 'prototypes')


def compare_candidates(
    run: Run, detector: nn.Module, inputs: Iterable[np.ndarray]
) -> Drift:
    """The differences of every candidate: 'candidate boxes' and 'candidate scores'.

    Those of what masks are made of are parts of its largest value.

    Args:
        run: Of the exported network.
        detector: The detector in torch, as it was trained.
        inputs: Of the network, (B, 3, H, W).
    """
    drift, broken = Drift(), set[str]()
    for batch in inputs:
        theirs = predict_candidates(detector, batch)
        for name, a, b in zip(
            CANDIDATES[: len(theirs)], run(batch), theirs, strict=True
        ):
            difference = np.abs(a.astype(np.float64) - b)
            if name in CANDIDATES[2:]:
                difference /= max(1.0, np.abs(b).max())
            drift.add(f'candidate {name}', float(difference.max()))
            if not np.isfinite(b).all():
                broken.add(
                    f"torch's own {name} are not all finite: retrain the weights"
                )
    drift.wrong += sorted(broken)
    return drift


@dataclass(frozen=True)
class Outcome:
    """What suppression may leave of one image's candidates.

    Args:
        boxes: (N, 4), in pixels of the network's input.
        scores: (N, C).
        nms: Of the test config.
        pixels: How far apart the coordinates of equal boxes may be.
        score: How far apart equal scores may be.
    """

    boxes: np.ndarray
    scores: np.ndarray
    nms: Thresholds
    pixels: float = PIXELS / 1000
    score: float = SCORE / 1000

    def judge(
        self, detections: Detections, name: str = '', layout: Layout | None = None
    ) -> Drift:
        """Says what is wrong with detections.

        Each must be a candidate of its class. Two of a class may not overlap by more
        than the threshold. And each candidate must be there, or be suppressed by one
        that is and that scores no less, or score no more than the last of as many as
        there may be. Values that differ by what rounding did to the candidates are
        equal, as are overlaps within :data:`SCORE`.

        Args:
            detections: In pixels of the network's input or of the image.
            name: Whose they are, for the names of the differences.
            layout: Where the image lies in the input, if they are in its pixels.
                Boxes that reach out of it are then alike; all of these count as
                detected, and may overlap.
        """
        limit, min_score = self.nms['max_per_img'], self.nms['score_thr']
        if len(detections.scores) >= limit:
            min_score = max(min_score, float(detections.scores.min()))
        drift = Drift(overlapping=max(len(detections.scores) - limit, 0))
        for label in range(self.scores.shape[1]):
            drift += self._judge_class(label, detections, name, layout, min_score)
        return drift

    def _judge_class(
        self,
        label: int,
        detections: Detections,
        name: str,
        layout: Layout | None,
        min_score: float,
    ) -> Drift:
        """As :meth:`judge`, of one class; scores up to ``min_score`` may be missing."""
        drift, threshold = Drift(), self.nms['iou_threshold']
        of_class = detections.labels == label
        rows = (self.scores[:, label] > self.nms['score_thr'] - SCORE).nonzero()[0]
        if not len(rows):
            for score in detections.scores[of_class]:  # of no candidate
                drift.add(f'{name}scores', float(score))
            return drift
        boxes, scores = self.boxes[rows], self.scores[rows, label]
        seen, pixels = boxes, self.pixels
        if layout is not None:
            seen, pixels = to_image(boxes, layout), pixels / min(layout.factor)
        kept: np.ndarray = np.zeros(len(rows), bool)
        for box, score in zip(detections.boxes[of_class], detections.scores[of_class]):
            far = np.abs(seen - box).max(1)
            apart = np.abs(scores - score)
            i = int((far / pixels + apart / self.score).argmin())
            drift.add(f'{name}boxes', float(far[i]))
            drift.add(f'{name}scores', float(apart[i]))
            if layout is not None:
                kept |= (far <= pixels) & (apart <= self.score)
            elif kept.any():
                worst = compute_iou(boxes[kept], boxes[i : i + 1]).max()
                drift.overlapping += bool(worst > threshold + SCORE)
            kept[i] = True
        lost = (scores > min_score + self.score) & ~kept
        covers = compute_iou(boxes[lost], boxes[kept]) > threshold - SCORE
        covers &= scores[kept] >= scores[lost, None] - self.score
        drift.missing += int((~covers.any(1)).sum())
        return drift


def allow_rounding(drift: Drift, output: str, limit: float) -> float:
    """How far apart equal values may be: twice the drift, within reason."""
    difference = drift.largest.get(output, 0.0)
    return float(np.clip(2 * np.nan_to_num(difference), limit / 1000, limit))


def compute_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlaps (N, M) of boxes (N, 4) and (M, 4), in float64."""
    return box_iou(Tensor(a).double(), Tensor(b).double()).numpy()


def compare_detections(
    exported: Detector,
    detector: nn.Module,
    cfg: Config,
    images: Sequence[np.ndarray],
    rounding: Drift,
) -> Drift:
    """What is wrong with a file's detections, and with MMYOLO's if it is the judge.

    Args:
        exported: The runtime with the exported file.
        detector: The detector in torch, see :func:`detect_by_torch`.
        cfg: See :func:`detect_by_torch`.
        images: H x W x 3, BGR, uint8. They go through the file together.
        rounding: What :func:`compare_candidates` gave: such differences are allowed.
    """
    test_cfg = detector.bbox_head.test_cfg  # not the file's, which may be wrong
    nms = Thresholds(
        score_thr=test_cfg.get('score_thr', 0.0),
        iou_threshold=test_cfg.nms.iou_threshold,
        max_per_img=test_cfg.max_per_img,
    )
    pixels = allow_rounding(rounding, 'candidate boxes', PIXELS)
    score = allow_rounding(rounding, 'candidate scores', SCORE)
    drift = Drift()
    prepared = [exported.preprocess(image) for image in images]
    size = exported.metadata['input']['batch'] or 2
    following = iter(images)
    for batch in group(prepared, size):
        inputs = stack(batch, size)
        outputs = exported.session.run(inputs)
        boxes, scores, *_ = predict_candidates(detector, inputs)
        for row, (_, layout) in enumerate(batch):
            one = {name: values[row] for name, values in outputs.items()}
            (found,) = predict_by_torch(detector, cfg, [next(following)])
            theirs = Detections(
                *(x.cpu().numpy() for x in (found.bboxes, found.scores, found.labels))
            )
            outcome = Outcome(boxes[row], scores[row], nms, pixels, score)
            ours = exported.postprocess(one)
            drift += outcome.judge(ours)
            drift += outcome.judge(theirs, "MMYOLO's ", layout)
            drift += Drift(images=1, detections=len(theirs.scores))
            if 'masks' in found:
                masks = found.masks.cpu().numpy()
                placed = exported.postprocess(one, layout=layout)
                near = pixels / min(layout.factor)
                drift += compare_masks(placed, theirs, masks, near, score)
    return drift


def compare_masks(
    ours: Detections,
    theirs: Detections,
    masks: np.ndarray,
    pixels: float,
    score: float,
) -> Drift:
    """How far a file's masks are from torch's own, in the image's pixels.

    Both have the masks of the same boxes: those that only one of both has are no
    matter here, since :class:`Outcome` judges them.

    Args:
        ours: The file's detections, with masks.
        theirs: MMYOLO's.
        masks: MMYOLO's, (N, H, W), bool.
        pixels: How far apart the coordinates of equal boxes may be.
        score: How far apart equal scores may be.
    """
    drift = Drift()
    if ours.masks is None:
        return Drift(wrong=['the file gives no masks'])
    for i, mask in enumerate(ours.masks):
        apart = np.abs(theirs.boxes - ours.boxes[i]).max(1, initial=0) / pixels
        apart = np.maximum(apart, np.abs(theirs.scores - ours.scores[i]) / score)
        apart[theirs.labels != ours.labels[i]] = np.inf
        alike = np.flatnonzero(apart <= 1)
        if len(alike):
            drift.add('masks', min(compute_share(mask, masks[j]) for j in alike))
    if len(ours.scores) and len(theirs.scores) and not drift.largest:
        drift.wrong.append("no mask of the file is of one of MMYOLO's boxes")
    return drift


def compute_share(a: np.ndarray, b: np.ndarray) -> float:
    """The share of two masks' pixels, (H, W) and bool, that only one of them has."""
    if a.shape != b.shape:
        return 1.0
    return float((a != b).sum() / max((a | b).sum(), MASK_PIXELS))
