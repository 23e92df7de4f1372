"""Predict: tools/predict.py CONFIG CHECKPOINT INPUT [--out-dir DIR] [--device cpu]
[--feature-maps] [--amp]

CHECKPOINT may be what tools/export.py wrote.
INPUT is an image, a video, a folder of them or a pattern in quotes ('a/**/*.jpg').
The output folder gets what is drawn, under `drawn/`, and `predictions.json`:

    {"config": ..., "checkpoint": ..., "score_thr": 0.3, "classes": [...],
     "box_format": "x1, y1, x2, y2 in pixels, from the image's top left corner",
     "predictions": [{"file": ..., "frame": 0 (of videos only), "drawn": ...,
                      "objects": [{"class": ..., "score": ..., "box": [...]}],
                      "feature_maps": folder (with --feature-maps only)}],
     "unreadable": {file: reason}}

--feature-maps draws, for every image, the backbone's maps and the neck's, row by row,
into a folder of its own under `feature_maps/`, with an `overview.png` of all.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.cli.arguments import existing_file, load_config
from mmnextvit.datasets.images import BrokenImageError
from mmnextvit.datasets.sources import VIDEO_EXTENSIONS, find_files, read_frames
from mmnextvit.deploy.exported import (
    check_classes,
    instances,
    is_exported,
)
from mmnextvit.engine.runner import check_amp, parser, read_test_metainfo, run
from mmnextvit.models.fold import fold_batchnorms, set_memory_format
from mmnextvit.runtime import Detector, objects_of
from mmnextvit.visualization.feature_maps import (
    collect_feature_maps,
    draw_channels,
    draw_overview,
    format_shape,
)
from mmnextvit.weights.loading import adapt, check

import cv2
import mmcv
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.progress import Progress


def parse_args():
    p = parser('Predict on images and videos.', launcher=False)
    p.add_argument('checkpoint', help='checkpoint, or exported file or folder')
    p.add_argument('input', help='image, video, folder or quoted pattern')
    p.add_argument('--out-dir', help='a new folder (./predictions/<date and time>)')
    p.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)'
    )
    p.add_argument('--device', help='cpu, cuda:0, ... (a GPU where there is one)')
    p.add_argument('--score-thr', type=float, default=0.3, help='least score, 0 to 1')
    p.add_argument(
        '--feature-maps',
        action='store_true',
        help="draw what each row gives, under feature_maps/ (a video's first frame)",
    )
    return p.parse_args()


def draw(visualizer, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
    """The image (BGR) with a sample's predictions."""
    visualizer.add_datasample(
        '', image[..., ::-1], sample, draw_gt=False, pred_score_thr=0
    )
    return visualizer.get_image()[..., ::-1]


class ExportedPredictor:
    """As :class:`Predictor`, of an exported file."""

    def __init__(self, cfg: Config, path: str, device: str | None) -> None:
        self.detector = Detector(path, device=device or 'cpu')
        self.classes = list(self.detector.classes)
        palette = check_classes(cfg, self.detector).get('palette', 'random')
        self.visualizer = DetLocalVisualizer()
        self.visualizer.dataset_meta = dict(classes=self.classes, palette=palette)

    def predict(self, image: np.ndarray, score_thr: float):
        (found,) = self.detector.detect([image], score_thr)
        sample = DetDataSample(pred_instances=instances(found))
        return objects_of(*found, self.classes), draw(self.visualizer, image, sample)


class Predictor(DetInferencer):
    """MMDetection's inferencer, for weights that fit, with the config's class names
    where the checkpoint has none."""

    amp = False

    def __init__(self, cfg: Config, weights: str, device: str | None) -> None:
        self.weights = weights
        cfg.visualizer = dict(type='mmdet.DetLocalVisualizer')  # without a folder
        super().__init__(
            cfg, weights, device, scope=cfg.default_scope, show_progress=False
        )
        set_memory_format(fold_batchnorms(self.model))  # faster, with the same results

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        check(adapt(checkpoint, model, self.weights), None)
        meta = checkpoint.setdefault('meta', {})
        if 'dataset_meta' not in meta:
            meta['dataset_meta'] = read_test_metainfo(cfg)
        super()._load_weights_to_model(model, checkpoint, cfg)

    @property
    def classes(self) -> list[str]:
        return list(self.model.dataset_meta['classes'])

    def _init_collate(self, cfg):
        return pseudo_collate

    def forward(self, inputs: dict, **kwargs):
        self.seen = inputs['inputs'][0]  # (3, H, W), BGR, 0 to 255, of the net's size
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, enabled=self.amp):
            return super().forward(inputs, **kwargs)

    def predict(self, image: np.ndarray, score_thr: float):
        """Objects as in the JSON, and the image (BGR) with their boxes."""
        (sample,) = self(image, return_datasamples=True)['predictions']
        found = sample.pred_instances
        sample.pred_instances = found[found.scores >= score_thr]
        found = sample.pred_instances
        objects = objects_of(found.bboxes, found.scores, found.labels, self.classes)
        return objects, draw(self.visualizer, image, sample)

    def predict_and_draw_maps(self, image: np.ndarray, score_thr: float, folder: Path):
        """As :meth:`predict`; writes the feature maps into ``folder``, a PNG each."""
        with collect_feature_maps(self.model) as maps:
            result = self.predict(image, score_thr)
        seen = self.seen.flip(0).permute(1, 2, 0).to('cpu', torch.uint8).numpy()
        drawn = {'overview': draw_overview(seen, maps)}
        for name, feature_map in maps.items():
            stem = f'{name.replace(" ", "_")}_{format_shape(feature_map)}'
            drawn[stem] = draw_channels(name, feature_map)
        for stem, sheet in drawn.items():
            mmcv.imwrite(sheet[..., ::-1], str(folder / f'{stem}.png'))
        return result


class Drawn:
    """Writes what is drawn of one file: an image, or a video frame by frame."""

    def __init__(self, source: Path, target: Path) -> None:
        self.is_video = source.suffix.lower() in VIDEO_EXTENSIONS
        if self.is_video and target.suffix.lower() != '.mp4':
            target = target.with_name(f'{target.name}.mp4')
        self.source, self.target, self.video = source, target, None

    def write(self, image: np.ndarray) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if not self.is_video:
            mmcv.imwrite(image, str(self.target))
            return
        if self.video is None:
            self.video = cv2.VideoWriter(
                str(self.target),
                cv2.VideoWriter_fourcc(*'mp4v'),
                mmcv.VideoReader(str(self.source)).fps or 25,
                image.shape[1::-1],
            )
        self.video.write(np.ascontiguousarray(image))

    def close(self) -> None:
        if self.video is not None:
            self.video.release()


def new_folder(path: str | None) -> Path:
    """An empty folder, named by the time if ``path`` is None."""
    folder = Path(path or Path('predictions', time.strftime('%Y%m%d_%H%M%S')))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f'--out-dir {folder} is not empty: choose a new folder')
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main():
    args = parse_args()
    cfg = load_config(args)
    exported = is_exported(args.checkpoint)
    if not exported:
        existing_file(args.checkpoint, 'checkpoint')
    if exported and args.amp:
        raise ValueError('--amp: an exported file computes as it was exported')
    if exported and args.feature_maps:
        raise ValueError('--feature-maps needs a checkpoint: exported files keep none')
    files = find_files(args.input)
    root = os.path.commonpath([p.parent for p in files])
    if (args.device or '').startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'--device {args.device}: torch finds no CUDA GPU here')
    kind = ExportedPredictor if exported else Predictor
    predictor = kind(cfg, args.checkpoint, args.device)
    if args.amp:
        check_amp(predictor.model)
        predictor.amp = True
    out_dir = new_folder(args.out_dir)

    predictions, unreadable = [], {}
    videos = [p for p in files if p.suffix.lower() in VIDEO_EXTENSIONS]
    total = len(files) + sum(len(mmcv.VideoReader(str(p))) - 1 for p in videos)
    with Progress() as progress:
        task = progress.add_task('Predicting', total=total)
        for path in files:
            name = os.path.relpath(path, root)
            drawn = Drawn(path, out_dir / 'drawn' / name)
            maps = Path('feature_maps', name)
            try:
                for i, frame in enumerate(read_frames(path)):
                    with_maps = args.feature_maps and i == 0
                    predict = predictor.predict
                    if with_maps:
                        predict = partial(
                            predictor.predict_and_draw_maps, folder=out_dir / maps
                        )
                    objects, image = predict(frame, args.score_thr)
                    drawn.write(image)
                    predictions.append(
                        {
                            'file': str(path),
                            **({'frame': i} if drawn.is_video else {}),
                            'drawn': str(drawn.target.relative_to(out_dir)),
                            'objects': objects,
                            **({'feature_maps': str(maps)} if with_maps else {}),
                        }
                    )
                    progress.advance(task)
            except BrokenImageError as error:
                unreadable[str(path)] = str(error)
                progress.advance(task)
            finally:
                drawn.close()
    result = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'score_thr': args.score_thr,
        'classes': predictor.classes,
        'box_format': "x1, y1, x2, y2 in pixels, from the image's top left corner",
        'predictions': predictions,
        'unreadable': unreadable,
    }
    (out_dir / 'predictions.json').write_text(json.dumps(result))
    count = sum(len(p['objects']) for p in predictions)
    print(f'{count} objects in {len(files) - len(unreadable)} files: {out_dir}')
    if unreadable:
        sys.exit('\n'.join(['Not read:', *unreadable.values()]))


if __name__ == '__main__':
    run(main)
