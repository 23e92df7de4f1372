"""What the report of a run is put together from."""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from ..engine.best_scores import store_best_scores
from ..engine.data_report import list_datasets
from ..engine.runner import ResumableRunner
from ..evaluation import curves
from ..evaluation.matching import Matching
from ..utils.messages import tell
from .batches import BATCHES, FOLDER, draw_batch, encode_jpeg
from .evaluate import Evaluation, evaluate
from .folder import INDEX, check_report_folder, write_folder
from .history import History, read_history
from .labels import LabelStatistics, count_labels, read_samples
from .page import Page, Section, render
from .sections import (
    describe_batches,
    describe_confusion,
    describe_faults,
    describe_labels,
    describe_metrics,
    describe_precision,
    describe_scores,
    describe_speed,
    describe_training,
    show_share,
)

NAME = 'report'  # of the folder, in that of a run
BATCH_SIZE = 8  # at most, of batches that are made for the report
Made = TypeVar('Made')


def write_report(
    cfg: Config, checkpoint: str, out: Path, run: Path | None = None
) -> Path:
    """Writes the report of a checkpoint as a folder, whole or not at all.

    An older report there is replaced. Where a part cannot be made, as without
    validation data, the page says why.

    Args:
        cfg: Config of the detector and its data.
        checkpoint: File of its weights.
        out: The folder.
        run: Folder of the run that trained it, with its logs and first batches. The
            best scores are stored in its checkpoint where that has others or none.

    Returns:
        The page.

    Raises:
        UserError: ``out`` holds something else than a report, or the config, its
            validation data or the checkpoint is at fault.
        OSError: ``out`` cannot be written.
    """
    check_report_folder(out)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    draft = Draft()
    evaluation = None
    if cfg.get('val_dataloader') and cfg.get('val_evaluator'):
        evaluation = evaluate(cfg, checkpoint)
        add_results(draft, evaluation)
        scores = evaluation.best and curves.to_metadata(evaluation.best)
        if run is not None and scores:
            draft.try_to(
                'The best scores could not be stored in the checkpoint',
                lambda: store_best_scores(checkpoint, scores),
            )
    else:
        draft.left_out.append(
            'The detector is not evaluated: the config has no val_dataloader and '
            'val_evaluator.'
        )
    add_training(draft, read_history(run) if run else History())
    add_data(draft, cfg, evaluation, run)
    if evaluation is not None:
        draft.sections.append(describe_speed(evaluation.speed))
    page = Page(
        title=f'{Path(cfg.filename).stem if cfg.filename else "Detector"}: report',
        facts=list_facts(evaluation),
        origin=describe_origin(cfg, checkpoint, run),
        left_out=draft.left_out,
        sections=draft.sections,
    )
    files = {INDEX: render(page).encode(errors='backslashreplace')}
    for section in page.sections:
        files |= {picture.name: picture.content for picture in section.pictures}
        files |= section.files
    write_folder(out, files, summarize(cfg, checkpoint, evaluation))
    return out / INDEX


class Draft:
    """A report that is being put together.

    Attributes:
        sections: Of the page.
        left_out: Why something is missing, in sentences.
    """

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.left_out: list[str] = []

    def try_to(self, what: str, make: Callable[[], Made]) -> Made | None:
        """What a function makes; where it fails, the page says what is missing."""
        try:
            return make()
        except Exception as error:  # what reads data may fail in any way
            self.left_out.append(f'{what}: {tell(error)}')
            return None


def add_results(draft: Draft, evaluation: Evaluation) -> None:
    """Adds what an evaluation says about detections."""
    matching, best = evaluation.matching, evaluation.best
    if matching is None or best is None:
        draft.left_out.append(
            'Curves, confusion matrix, best scores and the worst images are counted '
            'from what VerifiedCocoMetric matches for bbox. The val_evaluator of this '
            "config is another one: write type='mmdet.VerifiedCocoMetric', with "
            "ann_file=None for data that is not COCO's."
        )
        draft.sections.append(describe_metrics(evaluation.metrics))
        return
    threshold = curves.list_thresholds(matching, best)
    faults, unread = describe_faults(matching, threshold)
    draft.left_out += unread
    draft.sections += [
        describe_precision(matching),
        describe_scores(matching, best),
        describe_confusion(matching, threshold),
        faults,
    ]


def add_training(draft: Draft, history: History) -> None:
    """Adds the curves of a run, where any are logged."""
    if history.train or history.validation:
        draft.sections.append(describe_training(history))
    else:
        draft.left_out.append(
            'There are no curves of the training: no logs of it were found '
            '(*/vis_data/scalars.json in the folder of the run).'
        )


def add_data(
    draft: Draft, cfg: Config, evaluation: Evaluation | None, run: Path | None
) -> None:
    """Adds what the detector was trained and judged on."""
    dataset = None
    if cfg.get('train_dataloader'):
        dataset = draft.try_to(
            'The training data is not shown', lambda: build_train_dataset(cfg)
        )
    parts = {'train': dataset, 'val': evaluation and evaluation.dataset}
    splits: dict[str, LabelStatistics] = {}
    for split, part in parts.items():
        if part is not None:
            counted = draft.try_to(
                f'The labels of {split} are not counted',
                lambda part=part: count_dataset(part),  # type: ignore[misc]
            )
            splits |= {split: counted} if counted else {}
    if splits:
        draft.sections.append(describe_labels(splits))
    kept = sorted((run / FOLDER).glob('batch_*.jpg')) if run else []
    sheets: list[bytes] | None = [path.read_bytes() for path in kept]
    if not sheets and dataset is not None and evaluation is not None:
        sheets = draft.try_to(
            'The training batches are not drawn',
            lambda: make_batches(cfg, dataset, evaluation.preprocessor),
        )
    if sheets:
        draft.sections.append(describe_batches(sheets))


def count_dataset(dataset: torch.utils.data.Dataset) -> LabelStatistics:
    """The statistics of a dataset's boxes, each once, whatever repeats them."""
    samples = read_samples(list_datasets(dataset))
    return count_labels(samples, dataset.metainfo.get('classes') or ())


def build_train_dataset(cfg: Config) -> torch.utils.data.Dataset:
    """A config's training data."""
    dataset = cfg.train_dataloader.dataset
    return DATASETS.build(dataset) if isinstance(dataset, dict) else dataset


def make_batches(
    cfg: Config, dataset: torch.utils.data.Dataset, preprocessor: nn.Module
) -> list[bytes]:
    """The first batches of a training as JPEG files.

    Args:
        cfg: Config of the training.
        dataset: Its data.
        preprocessor: The model's.
    """
    loader = dict(cfg.train_dataloader)
    loader.pop('prefetch_factor', None)
    loader |= dict(
        dataset=dataset,
        batch_size=min(loader.get('batch_size') or 1, BATCH_SIZE),
        num_workers=0,
        persistent_workers=False,
    )
    batches = ResumableRunner.build_dataloader(loader, seed=0)
    classes = dataset.metainfo['classes']
    with torch.no_grad():
        return [
            encode_jpeg(draw_batch(preprocessor, preprocessor(batch, True), classes))
            for _, batch in zip(range(BATCHES), batches)
        ]


def list_facts(evaluation: Evaluation | None) -> list[tuple[str, str, str]]:
    """What counts most of an evaluation: a number, its name, and what it means."""
    if evaluation is None:
        return []
    speed = evaluation.speed
    facts = [
        (f'{1000 * speed.detecting:.0f} ms', 'per image', f'on {speed.device}'),
    ]
    if evaluation.matching is None or evaluation.best is None:
        numbers = [(k, v) for k, v in evaluation.metrics.items() if v >= 0]
        return [
            (f'{v:.3f}', name, 'of the evaluator') for name, v in numbers[:4]
        ] + facts
    return describe_matching(evaluation.matching, evaluation.best.all) + facts


def describe_matching(
    matching: Matching, best: curves.Best | None
) -> list[tuple[str, str, str]]:
    """What counts most of a matching, and of its best score over all classes."""
    averages = curves.average_precisions(matching)
    facts = [
        (show_share(float(averages.by_area[-1, 0])), 'mAP', 'over IoUs 0.5 to 0.95')
    ]
    if abs(matching.iou_thresholds[0] - 0.5) < 1e-6:
        facts.append((show_share(float(averages.by_iou[-1, 0])), 'mAP50', 'at IoU 0.5'))
    if best is not None:
        facts += [
            (show_share(best.score), 'best score', f'where F1 is {best.f1:.2f}'),
            (
                show_share(best.precision),
                'precision',
                'of the detections are right at that score',
            ),
            (show_share(best.recall), 'recall', 'of the objects are found'),
        ]
    boxes = int((~matching.truths.crowd).sum())
    facts.append(
        (f'{len(matching.images):,}', 'validation images', f'with {boxes:,} objects')
    )
    return facts


def describe_origin(
    cfg: Config, checkpoint: str, run: Path | None
) -> list[tuple[str, str]]:
    """What a report is made of."""
    origin = [('config', str(cfg.filename or '')), ('checkpoint', str(checkpoint))]
    if run is not None:
        origin.append(('run', str(run)))
    for split in ('train', 'val'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if isinstance(dataset, dict) and dataset.get('ann_file'):
            parts = (dataset.get('data_root') or '', dataset['ann_file'])
            origin.append((f'{split} data', str(Path(*parts))))
    return [
        *origin,
        ('made', time.strftime('%Y-%m-%d %H:%M')),
        ('by', f'torch {torch.__version__}, {platform.platform()}'),
    ]


def summarize(
    cfg: Config, checkpoint: str, evaluation: Evaluation | None
) -> Mapping[str, object]:
    """What programs may want to read of a report."""
    summary: dict[str, object] = dict(
        config=str(cfg.filename or ''), checkpoint=str(checkpoint)
    )
    if evaluation is None:
        return summary
    summary['metrics'] = {k: float(v) for k, v in evaluation.metrics.items()}
    if evaluation.best is not None:
        summary['best_scores'] = curves.to_metadata(evaluation.best)
    return summary
