"""A predictor that finds in each image what a test says, without a network."""

from collections.abc import Mapping, Sequence

from mmnextvit.runtime import Objects

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

Found = tuple[int, float, Sequence[float]]  # label, score, box


class ScriptedPredictor:
    """Knows images by the blue of their first pixel.

    Args:
        classes: Names of the labels.
        found: What it finds in an image, by that value; nothing in others.
        masks: (N, H, W) for what it finds, likewise; none where it is left out.
        best: The minimum score of each label that 'best' stands for.
    """

    def __init__(
        self,
        classes: Sequence[str],
        found: Mapping[int, Sequence[Found]],
        masks: Mapping[int, np.ndarray] | None = None,
        best: Sequence[float] = (),
    ) -> None:
        self.classes = list(classes)
        self.found = found
        self.masks = masks
        self.best = list(best)

    def detect(self, image: np.ndarray, score_thr: float) -> DetDataSample:
        key = int(image[0, 0, 0])
        found = sorted(self.found.get(key, ()), key=lambda one: -one[1])
        detections = InstanceData(
            bboxes=torch.tensor([box for *_, box in found]).float().reshape(-1, 4),
            scores=torch.tensor([score for _, score, _ in found]).float(),
            labels=torch.tensor([label for label, *_ in found]).long(),
        )
        if self.masks is not None:
            empty = np.zeros((0, *image.shape[:2]), bool)
            detections.masks = torch.from_numpy(self.masks.get(key, empty))
        kept = detections[detections.scores >= score_thr]
        return DetDataSample(pred_instances=kept)

    def find_thresholds(self, score_thr: float | str) -> float | list[float]:
        return self.best if isinstance(score_thr, str) else score_thr

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]:
        found = sample.pred_instances
        return Objects(found.bboxes, found.scores, found.labels, self.classes)

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
        return image
