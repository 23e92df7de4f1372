"""A detector as a TorchScript program."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import KEY, Thresholds, widen
from ..runtime import read_archive_metadata as read_metadata
from .job import Job, Written
from .tracing import make_example, silence_converters


class WithNMS(nn.Module):
    """A network of candidates followed by torchvision's NMS, to be traced.

    Outputs are those of :func:`~mmnextvit.deploy.onnx.add_nms`.
    """

    def __init__(self, candidates: nn.Module, nms: Thresholds) -> None:
        super().__init__()
        self.candidates = candidates
        self.suppress = torch.jit.script(suppress)
        self.limits = (
            float(nms['score_thr']),
            # As exact as the overlaps, or one of just the threshold may exceed it.
            torch.tensor(nms['iou_threshold'], dtype=torch.float32).item(),
            int(nms['max_per_img']),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores, *masks = self.candidates(images)
        if not masks:
            return self.suppress(boxes, scores, *self.limits)
        coefficients, prototypes = masks
        rows = torch.cat((boxes, coefficients), -1)
        numbers, rows, scores, labels = self.suppress(rows, scores, *self.limits)
        return numbers, rows[..., :4], scores, labels, rows[..., 4:], prototypes


def suppress(
    boxes: Tensor, scores: Tensor, score_thr: float, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS class by class, of boxes (B, N, 4) and scores (B, N, C), as a script.

    Columns behind the boxes' four are carried along.
    """
    count = boxes.shape[0]
    numbers = torch.zeros(count, 1, dtype=torch.int32, device=boxes.device)
    out_boxes = torch.zeros(count, limit, boxes.shape[2], device=boxes.device)
    out_scores = torch.zeros(count, limit, device=boxes.device)
    labels = torch.full((count, limit), -1, dtype=torch.int32, device=boxes.device)
    for i in range(count):
        pairs = torch.nonzero(scores[i] > score_thr)  # of a row and a class
        score = scores[i][pairs[:, 0], pairs[:, 1]]
        # What comes later decides nothing: most often some of the best are enough.
        tried, n = 0, 0
        best = kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        while n < limit and tried < score.shape[0]:
            tried = max(4 * limit, widen(tried, n, limit))
            best = find_best(score, tried)
            box, label = boxes[i][pairs[best, 0], :4], pairs[best, 1]
            kept = keep_best(box, score[best], label, iou_threshold)[:limit]
            n = kept.shape[0]
        kept = best[kept]
        numbers[i, 0] = n
        out_boxes[i, :n] = boxes[i][pairs[kept, 0]]
        out_scores[i, :n] = score[kept]
        labels[i, :n] = pairs[kept, 1].to(torch.int32)
        if not bool(torch.isfinite(scores[i]).all()):  # as ONNX's
            out_scores[i] = float('nan')
    return numbers, out_boxes, out_scores, labels


def find_best(scores: Tensor, count: int) -> Tensor:
    """The indices of the best scores, falling; of equal ones the first comes first."""
    lowest = torch.topk(scores, min(count, scores.shape[0])).values[-1]
    best = torch.nonzero(scores >= lowest)[:, 0]
    return best[torch.argsort(scores[best], stable=True, descending=True)][:count]


def keep_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """The indices of what NMS keeps, by class, of boxes (N, 4) by falling score."""
    keep = torch.zeros(scores.shape[0], dtype=torch.bool, device=boxes.device)
    for label in torch.unique(labels):
        mine = torch.nonzero(labels == label)[:, 0]
        best = torch.ops.torchvision.nms(boxes[mine], scores[mine], iou_threshold)
        keep[mine[best]] = True
    return torch.nonzero(keep)[:, 0]


def write(job: Job, path: Path) -> Written:
    """Writes a traced program, for the CPU."""
    channels = job.candidates.image_channels
    images = make_example(job.shape['size'], job.shape['batch'], channels)
    with torch.no_grad(), silence_converters():
        traced = module = torch.jit.trace(job.candidates, images, check_trace=False)
        if job.metadata['nms']['in_graph']:
            whole = WithNMS(traced, job.metadata['nms'])
            module = torch.jit.trace(whole, images, check_trace=False)
        extra = {f'{KEY}.json': json.dumps(job.metadata)}
        content = BytesIO()  # torch ends the process where a disk is full
        torch.jit.save(module, content, _extra_files=extra)
    path.write_bytes(content.getbuffer())

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            outputs = traced(torch.from_numpy(images))
        return tuple(values.numpy() for values in outputs)

    return Written(run, read_metadata(path))
