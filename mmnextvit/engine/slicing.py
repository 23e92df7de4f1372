"""Large images in tiles, with torch's detectors: what is found, and what that gains."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast
from mmengine.structures import InstanceData
from terminaltables import AsciiTable
from torch.utils.data import DataLoader

from ..datasets.image_inputs import with_colours
from ..datasets.images import load_image
from ..runtime import MAX_BATCH, Found, Masks, Slicing, detect_in_tiles
from .runner import build_array_pipeline, read_color_type

# What a comparison shows of COCO's numbers, by the end of their names.
SHOWN = {
    'mAP': 'mAP',
    'mAP_50': 'mAP50',
    'mAP_s': 'mAP, small objects',
    'mAP_m': 'mAP, medium objects',
    'mAP_l': 'mAP, large objects',
}


def to_found(instances: InstanceData, min_score: float = 0) -> Found:
    """Detections as the runtime has them, without those below a score."""
    kept = instances[instances.scores >= min_score].cpu()
    boxes = get_box_tensor(kept.bboxes).numpy()
    masks = kept.masks if 'masks' in kept else None
    if masks is not None and not isinstance(masks, Masks):
        masks = np.asarray(masks, bool)
    return Found(boxes, kept.scores.numpy(), kept.labels.numpy(), masks)


def to_instances(found: Found) -> InstanceData:
    """Detections of the runtime, as MMDetection has them.

    Their masks stay what makes one when it is asked for: all of a large image would
    take gigabytes.
    """
    instances = InstanceData(
        bboxes=torch.from_numpy(found.boxes),
        scores=torch.from_numpy(found.scores),
        labels=torch.from_numpy(found.labels).long(),
    )
    if found.masks is not None:
        instances.masks = found.masks
    return instances


def with_arrays(instances: InstanceData) -> InstanceData:
    """The same with all masks as MMDetection has them, (N, H, W), bool."""
    if isinstance(masks := instances.get('masks'), Masks):
        instances = instances.new()
        instances.masks = torch.from_numpy(masks.to_array())
    return instances


def detect_large(
    image: np.ndarray,
    slicing: Slicing,
    detect: Callable[[Iterable[np.ndarray]], Iterable[DetDataSample]],
    limit: int,
    min_score: float = 0,
    whole: InstanceData | None = None,
) -> InstanceData:
    """Detects in the tiles of an image.

    Args:
        image: (H, W, 3), BGR, uint8.
        slicing: How it is cut.
        detect: Gives a sample for each of some images.
        limit: How many detections there are at most.
        min_score: Those below are left out before they are merged.
        whole: What was found in the whole image, if that is known.
    """

    def find(tiles: Iterable[np.ndarray]) -> Iterator[Found]:
        return (to_found(one.pred_instances, min_score) for one in detect(tiles))

    known = None if whole is None else to_found(whole, min_score)
    return to_instances(detect_in_tiles(image, slicing, find, limit, known))


@LOOPS.register_module()
class SlicedTestLoop(TestLoop):
    """MMEngine's ``TestLoop`` with large images in tiles, and beside that without.

    Every image goes through the model as it does in a plain test, and what is found so
    is evaluated, too. Those that are larger than a tile then go through it in tiles.

    Args:
        runner: Its runner.
        dataloader: As of ``TestLoop``, and so are the others.
        evaluator: Evaluates either way.
        slicing: Arguments of :class:`mmnextvit.runtime.Slicing`.
        limit: How many detections there are at most in an image.
        fp16: Whether to compute in mixed precision.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: dict | list,
        slicing: Mapping[str, Any],
        limit: int,
        fp16: bool = False,
    ) -> None:
        plain = list_metrics(evaluator)
        super().__init__(runner, dataloader, evaluator, fp16)
        self.plain = runner.build_evaluator(plain) if plain else Evaluator([])
        self.plain.dataset_meta = self.evaluator.dataset_meta
        self.slicing = Slicing(**slicing)
        self.limit = limit
        self.pipeline = build_array_pipeline(runner.cfg)
        self.color_type = with_colours(read_color_type(runner.cfg))
        self.seconds = np.zeros(2)  # of whole images, and of tiles besides
        self.images: np.ndarray = np.zeros(2, int)  # all, and those that were cut

    def run(self) -> dict[str, float]:
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        for number, batch in enumerate(self.dataloader):
            self.run_iter(number, batch)
        count = len(self.dataloader.dataset)
        print_log('Whole images:', logger='current')
        plain = self.plain.evaluate(count)
        print_log(f'Tiles of {self.slicing.size} pixels:', logger='current')
        metrics = self.evaluator.evaluate(count)
        self.add_up()
        print_log(f'\n{self.compare(plain, metrics)}', logger='current')
        metrics |= {f'whole/{name}': value for name, value in plain.items()}
        metrics['slice/time_ratio'] = float(self.seconds.sum() / self.seconds[0])
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        hook = dict(batch_idx=idx, data_batch=data_batch)
        self.runner.call_hook('before_test_iter', **hook)
        begun = time.perf_counter()
        samples = [sample.cpu() for sample in self._predict(data_batch)]
        self.seconds[0] += time.perf_counter() - begun
        copies = [sample.clone() for sample in samples]
        self.plain.process(data_samples=copies, data_batch=data_batch)
        self.images[0] += len(samples)
        for sample in samples:
            if self.slicing.cuts(sample.ori_shape):
                self._look_again(sample)
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook('after_test_iter', **hook, outputs=samples)

    def _predict(self, batch: dict) -> Sequence[DetDataSample]:
        with autocast(enabled=self.fp16):
            return self.runner.model.test_step(batch)

    def _look_again(self, sample: DetDataSample) -> None:
        """Gives a sample what is found in tiles, and in the whole image, of a file."""
        height, width = sample.ori_shape[:2]
        path, stated = sample.img_path, (width, height)  # as it was turned
        image = load_image(path, self.color_type, stated=stated).image
        begun = time.perf_counter()
        whole = sample.pred_instances if self.slicing.whole else None
        found = detect_large(image, self.slicing, self._detect, self.limit, whole=whole)
        sample.pred_instances = with_arrays(found)  # metrics and hooks take these
        self.seconds[1] += time.perf_counter() - begun
        self.images[1] += 1

    def _detect(self, images: Iterable[np.ndarray]) -> Iterator[DetDataSample]:
        prepared = (self.pipeline(dict(img=image, img_id=0)) for image in images)
        while batch := list(islice(prepared, MAX_BATCH)):
            yield from self._predict(pseudo_collate(batch))

    def add_up(self) -> None:
        """Has times and images be those of all processes."""
        sums = torch.tensor([*self.seconds, *self.images], dtype=torch.float64)
        all_reduce(sums)
        self.seconds, self.images = sums[:2].numpy(), sums[2:].long().numpy()

    def compare(self, plain: Mapping[str, float], sliced: Mapping[str, float]) -> str:
        """What tiles gained, and what they cost, as a table and two sentences."""
        rows = [['', 'whole images', 'and tiles', 'gained']]
        for name, title in SHOWN.items():
            for key in (key for key in plain if key.endswith(f'bbox_{name}')):
                before, after = plain[key], sliced[key]
                if before >= 0:  # COCO's -1: there are no such objects
                    gained = f'{after - before:+.3f}'
                    rows.append([title, f'{before:.3f}', f'{after:.3f}', gained])
        (count, cut), (whole, tiles) = self.images.tolist(), self.seconds.tolist()
        each = (f'{1000 * t / max(count, 1):.0f} ms' for t in (whole, whole + tiles))
        ratio = (whole + tiles) / whole if whole else 1.0
        rows.append(['time per image', *each, f'{ratio:.1f} times'])
        size = self.slicing.size
        return (
            f'{AsciiTable(rows).table}\n{cut} of {count} images are larger than a tile '
            f'of {size} pixels. Times leave out reading files.'
        )


def list_metrics(evaluator: dict | list) -> list[dict]:
    """The configs of the metrics that an evaluator counts, without files of theirs."""
    metrics = evaluator if isinstance(evaluator, list) else [evaluator]
    return [
        {key: value for key, value in metric.items() if key != 'outfile_prefix'}
        for metric in metrics
        if not metric.get('format_only')
    ]
