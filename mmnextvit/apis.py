"""What the commands do, as functions and classes for a notebook or another program::

    from mmnextvit import get_config
    from mmnextvit.apis import Predictor, test, train

    cfg = get_config('yolov5_nextvit_s_demo')
    runner = train(cfg, work_dir='my_run', amp=True)
    metrics = test(cfg, 'my_run/epoch_30.pth')
    predictor = Predictor(cfg, 'my_run/epoch_30.pth', device='cpu')
    objects = predictor(cv2.imread('image.jpg'))

Configs that are given stay as they are.
"""

import copy
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.evaluation import DumpDetResults
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch import Tensor

from .deploy.exported import (
    check_classes,
    is_exported,
    open_exported,
    to_instances,
    use_exported,
)
from .deploy.finite import check_finite
from .engine.interrupt import InterruptHook, catch_signals
from .engine.lock import training_lock
from .engine.peers import watch_peers
from .engine.runner import (
    build_array_pipeline,
    build_runner,
    check_amp,
    choose_device,
    load_detector,
    read_test_metainfo,
    unwrap_model,
)
from .engine.training import make_training_config
from .models.fold import fold_batchnorms, set_memory_format
from .runtime import list_objects
from .utils.errors import UserError
from .utils.files import (
    PICKLES,
    atomic_write,
    check_folder,
    check_new_file,
    require_file,
)
from .visualization.feature_maps import collect_feature_maps


def train(
    cfg: Config,
    *,
    work_dir: str | os.PathLike | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    patience: int | None = None,
    hours: float | None = None,
) -> Runner:
    """Trains a config's detector.

    Args:
        cfg: Config of a detector and its data.
        work_dir: Folder for logs and checkpoints; by default the config's, else
            ``./work_dirs/`` and the config's name.
        resume: A checkpoint file to continue from, or 'latest' for the last one of
            ``work_dir``.
        amp: Whether to train in mixed precision (bfloat16 on a CPU).
        auto_scale_lr: Whether to scale the learning rate with the batch size over all
            processes.
        patience: Epochs without a better metric after which the training ends, with a
            last phase in which the learning rate goes to its end.
        hours: The time after which it ends, likewise, counted over all resumptions.

    Returns:
        The runner when it has finished, with ``model`` and ``work_dir``.

    Raises:
        UserError: The config, its data or a checkpoint is at fault, or ``work_dir``
            holds another run, or another training writes there now.
        KeyboardInterrupt: A signal ended the training, after a checkpoint was saved.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir or choose_work_dir(cfg))
    with training_lock(cfg), catch_signals() as signals:
        runner = build_runner(
            make_training_config(cfg, resume, amp, auto_scale_lr, patience, hours)
        )
        runner.register_hook(InterruptHook(signals))
        with watch_peers(runner.launcher):
            runner.train()
    return runner


def test(
    cfg: Config,
    checkpoint: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    amp: bool = False,
    out: str | os.PathLike | None = None,
    show_dir: str | os.PathLike | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint on a config's test data.

    Args:
        cfg: Config of the detector and its data.
        checkpoint: Checkpoint, or what ``mmnextvit export`` wrote: it is tested as it
            will be used, with its own resizing.
        work_dir: Folder for logs; by default ``test`` in the run's own folder, so that
            the config that training wrote there stays.
        amp: Whether to compute in mixed precision (bfloat16 on a CPU).
        out: New file for the predictions, which ends in ``.pkl``.
        show_dir: Folder for drawings of the predictions beside the truth.

    Returns:
        The metrics, as ``{'coco/bbox_mAP': 0.41, ...}``.

    Raises:
        UserError: The arguments do not go together, or the config, its data or the
            checkpoint is at fault.
        OSError: ``out``, ``show_dir`` or ``work_dir`` cannot be written, which is tried
            at first.
    """
    checkpoint = os.fspath(checkpoint)
    if out is not None:
        check_new_file(out, '--out', PICKLES)
    if show_dir is not None:
        check_folder(show_dir, '--show-dir')
    exported = is_exported(checkpoint)
    if exported and amp:
        raise UserError('--amp: an exported file computes as it was exported')
    if exported and cfg.get('launcher', 'none') != 'none':
        raise UserError('launcher (--launcher): one process tests an exported file')
    cfg = use_exported(cfg, checkpoint) if exported else copy.deepcopy(cfg)
    if exported:
        check_finite(checkpoint)
    else:
        cfg.load_from = require_file(checkpoint, 'checkpoint')
    cfg.resume = False
    cfg.work_dir = str(work_dir or Path(choose_work_dir(cfg), 'test'))
    check_folder(cfg.work_dir, 'work_dir (--work-dir)')
    if amp:
        cfg.test_cfg.fp16 = True  # MMEngine's name of it
    if show_dir is not None:
        cfg.default_hooks.visualization = dict(
            type='mmdet.DrawTestHook', out_dir=str(Path(show_dir).resolve())
        )
    runner = build_runner(cfg)
    if amp:
        check_amp(unwrap_model(runner))
    if out is not None:
        runner.test_evaluator.metrics.append(SavedPredictions(str(out)))
    return runner.test()


def choose_work_dir(cfg: Config) -> Path:
    """The folder of a config's run where none is named."""
    return Path(cfg.get('work_dir') or Path('work_dirs', Path(cfg.filename).stem))


class SavedPredictions(DumpDetResults):
    """MMDetection's ``DumpDetResults``, whose file is written whole or not at all."""

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        with atomic_write(self.out_file_path, overwrite=False) as scratch:
            dump(results, scratch)
        print_log(f'The predictions are in {self.out_file_path}', logger='current')
        return {}


class ImagePredictor:
    """What :class:`Predictor` and :class:`ExportedPredictor` have in common.

    Args:
        classes: Names of the labels.
        palette: Their colours, as MMDetection's visualizer takes them.
    """

    def __init__(self, classes: list[str], palette: object) -> None:
        self.classes = classes
        self.visualizer = DetLocalVisualizer()
        self.visualizer.dataset_meta = dict(classes=classes, palette=palette)

    def __call__(
        self, image: np.ndarray, score_thr: float = 0.3
    ) -> list[dict[str, object]]:
        """The objects in an image, as :class:`mmnextvit.runtime.Detector` gives them.

        Args:
            image: (H, W, 3), BGR, uint8.
            score_thr: Minimum score, 0 to 1.

        Returns:
            By falling score ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2,
            y2]}``, in pixels from the image's top left corner.
        """
        return self.list_objects(self.detect(image, score_thr))

    def detect(self, image: np.ndarray, score_thr: float = 0.3) -> DetDataSample:
        """The same as MMDetection's data sample, with ``pred_instances``."""
        raise NotImplementedError

    def detect_with_maps(
        self, image: np.ndarray, score_thr: float = 0.3
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        """As :meth:`detect`, with what the network computes on the way.

        Returns:
            The sample; the image as the network sees it (h, w, 3), RGB, uint8; and the
            feature maps of :func:`~mmnextvit.visualization.predictions.feature_maps`.

        Raises:
            UserError: The predictor does not see the network's inside.
        """
        raise UserError(
            'feature maps (--feature-maps) need a checkpoint: exported files keep none'
        )

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]:
        """The detections of a sample, as calling the predictor gives them."""
        detections = sample.pred_instances
        return list_objects(
            detections.bboxes, detections.scores, detections.labels, self.classes
        )

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
        """The image (H, W, 3), BGR, uint8, with the detections of a sample."""
        self.visualizer.add_datasample(
            '', image[..., ::-1], sample, draw_gt=False, pred_score_thr=0
        )
        return self.visualizer.get_image()[..., ::-1]


class Predictor(ImagePredictor):
    """A config's detector with the weights of a checkpoint, for images in memory.

    Its BatchNorms are folded, which changes results by rounding only.

    Args:
        cfg: Config of the detector. Its test data give the names of the classes where
            the checkpoint has none.
        checkpoint: Checkpoint, all of which must fit.
        device: 'cpu', 'cuda:0', ...; by default a GPU where there is one.
        amp: Whether to compute in mixed precision (bfloat16 on a CPU).

    Attributes:
        model: The folded detector.

    Raises:
        UserError: The checkpoint does not fit, or the device is not there.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | os.PathLike,
        device: str | None = None,
        amp: bool = False,
    ) -> None:
        require_file(os.fspath(checkpoint), 'checkpoint')
        model = load_detector(
            copy.deepcopy(cfg), os.fspath(checkpoint), choose_device(device)
        )
        if amp:
            check_amp(model)
        meta = model.dataset_meta
        palette = read_test_metainfo(cfg).get('palette') or meta.get('palette')
        super().__init__(list(meta['classes']), palette or 'random')
        model = revert_sync_batchnorm(model)
        self.model = set_memory_format(fold_batchnorms(model))
        self.amp = amp
        self.pipeline = build_array_pipeline(cfg)

    def detect(self, image: np.ndarray, score_thr: float = 0.3) -> DetDataSample:
        return self._detect(self._prepare(image), score_thr)

    def detect_with_maps(
        self, image: np.ndarray, score_thr: float = 0.3
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        batch = self._prepare(image)
        resized = batch['inputs'][0].to('cpu', torch.uint8).permute(1, 2, 0).numpy()
        with collect_feature_maps(self.model) as maps:
            sample = self._detect(batch, score_thr)
        return sample, cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), maps

    def _prepare(self, image: np.ndarray) -> dict[str, list]:
        """A batch of the image alone, as the test pipeline makes it."""
        return pseudo_collate([self.pipeline(dict(img=image, img_id=0))])

    def _detect(self, batch: dict[str, list], score_thr: float) -> DetDataSample:
        device = next(self.model.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, enabled=self.amp):
            (sample,) = self.model.test_step(batch)
        detections = sample.pred_instances
        sample.pred_instances = detections[detections.scores >= score_thr]
        return sample


class ExportedPredictor(ImagePredictor):
    """As :class:`Predictor`, with a file or folder that ``mmnextvit export`` wrote.

    Args:
        cfg: Config that it was exported with.
        path: Exported file or folder.
        device: As of :class:`mmnextvit.runtime.Detector`.

    Raises:
        UserError: The file cannot be used, holds NaN, or has other classes than the
            test data.
    """

    def __init__(
        self, cfg: Config, path: str | os.PathLike, device: str | None = None
    ) -> None:
        self.detector = open_exported(path, device or 'cpu')
        check_finite(os.fspath(path))
        metainfo = check_classes(cfg, self.detector)
        super().__init__(list(self.detector.classes), metainfo.get('palette', 'random'))

    def detect(self, image: np.ndarray, score_thr: float = 0.3) -> DetDataSample:
        (detections,) = self.detector.detect([image], score_thr)
        return DetDataSample(pred_instances=to_instances(detections))


def load_predictor(
    cfg: Config,
    checkpoint: str | os.PathLike,
    device: str | None = None,
    amp: bool = False,
) -> ImagePredictor:
    """The predictor for a checkpoint or for an exported file.

    Args:
        cfg: As of :class:`Predictor`, and so are the others.
        checkpoint: Checkpoint, or exported file or folder.
        device: Where to compute.
        amp: Whether to compute in mixed precision; not with exported files.

    Raises:
        UserError: The arguments do not go together, or as of the two classes.
    """
    checkpoint = os.fspath(checkpoint)
    if not is_exported(checkpoint):
        return Predictor(cfg, checkpoint, device, amp)
    if amp:
        raise UserError('--amp: an exported file computes as it was exported')
    return ExportedPredictor(cfg, checkpoint, device)
