"""A YOLOv5 model, with its data, hyperparameters and weights, as a config of ours."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import nn

from ..datasets.anchors import compute_anchors, measure_boxes
from ..datasets.data_yaml import SPLITS, find_sources, read_data_yaml
from ..engine.runner import build_dataset, build_model
from ..models.timm_features import get_timm_mean_std
from ..utils.errors import UserError, find_user_error
from ..utils.files import atomic_write, check_new_file, require_file
from ..utils.yaml_reader import read_yaml
from ..weights.contents import extract_weights, widen_to_float32
from ..weights.conversion import make_meta, save_checkpoint
from ..weights.loading import adapt, check
from ..weights.receipt import Receipt
from .config_text import Settings, make_config_text
from .hyp import Hyp, read_hyp
from .model_yaml import Anchors, ImportedModel, read_model
from .notes import Note

MAX_OPTION = 100_000  # exclusive

Level = Sequence[tuple[float, float]]  # width and height of each anchor


@dataclass(frozen=True)
class Options:
    """What is imported, and for which training.

    Attributes:
        model: YOLOv5's YAML of the model.
        out: The config to write; weights go beside it, under its name with ``.pth``.
        data: YOLOv5's ``data.yaml``.
        data_root: Folder that its relative paths may count from, too.
        hyp: YOLOv5's hyperparameters.
        weights: A trained ``.pt`` of that model.
        img_size: Side of the square that images are fitted into, in pixels.
        epochs: Length of the training.
        batch_size: Images per process and iteration.
    """

    model: str
    out: Path
    data: str | None = None
    data_root: str | None = None
    hyp: str | None = None
    weights: str | None = None
    img_size: int = 640
    epochs: int = 300
    batch_size: int = 16

    @property
    def weights_out(self) -> Path:
        return self.out.with_suffix('.pth')


@dataclass(frozen=True)
class Data:
    """What a ``data.yaml`` says.

    Attributes:
        path: The file.
        root: Folder that its relative paths count from, where that is not the file's.
        classes: The names.
        notes: What has no counterpart.
        places: Where its images were found, if not where it says at first.
    """

    path: str
    root: str
    classes: tuple[str, ...]
    notes: tuple[Note, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """Weights under our names.

    Attributes:
        checkpoint: What is saved.
        receipt: What the file brought to the model.
        has_head: Whether the head's weights are among them.
    """

    checkpoint: dict[str, object]
    receipt: Receipt
    has_head: bool


@dataclass(frozen=True)
class Report:
    """What an import wrote.

    Attributes:
        config: The config.
        weights: The weights, if there are any.
        converted: What they hold.
        num_parameters: The model's parameters.
        strides: Strides of the head's levels in pixels.
        asked_img_size: The image size that was asked for, in pixels.
        img_size: The one that the config has, a multiple of the largest stride.
        anchors: The config's anchors.
        notes: What has no counterpart.
        places: Where images were found, if not where the data.yaml says at first.
    """

    config: Path
    weights: Path
    converted: Converted | None
    num_parameters: int
    strides: Sequence[int]
    asked_img_size: int
    img_size: int
    anchors: Anchors
    notes: tuple[Note, ...]
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        return '\n'.join(self.list_lines())

    def list_lines(self) -> list[str]:
        """The report as text, a line each; a receipt has several in one."""
        lines = []
        if self.img_size != self.asked_img_size:
            lines.append(
                f'--imgsz {self.asked_img_size} is not a multiple of '
                f'{max(self.strides)}: {self.img_size} is taken'
            )
        if self.converted:
            if not self.converted.has_head:
                lines.append(
                    'The head starts anew: the file has another number of anchors'
                )
            lines.append(f'{self.weights}: {self.converted.receipt}')
        lines.append(
            f'{self.config}: {self.num_parameters:,} parameters, levels of stride '
            f'{list(self.strides)}'
        )
        if isinstance(self.anchors, int):
            lines.append(
                'The anchors are a count, with which nothing trains: import again with '
                '--data data.yaml, from which they are computed'
            )
        lines += self.places
        colon = ':' if self.notes else ''
        lines.append(f'{len(self.notes)} entries have no counterpart{colon}')
        return [*lines, *(f'  {note}' for note in self.notes)]


def import_model(options: Options) -> Report:
    """Writes a config that inherits from ours, and the weights beside it.

    Both are written whole, or neither is.

    Raises:
        UserError: A file or an option is wrong; the error has file, line and row.
        OSError: The config or the weights cannot be written.
    """
    _check_options(options)
    model = read_model(read_yaml(options.model))
    hyp = read_hyp(read_yaml(options.hyp)) if options.hyp else Hyp()
    data = _read_data(options.data, options.data_root) if options.data else None
    notes = *model.notes, *hyp.notes, *(data.notes if data else ())
    model = replace(model, anchors=hyp.num_anchors or model.anchors)
    content: dict = {}
    if options.weights:
        source = require_file(options.weights, 'weights')
        content = CheckpointLoader.load_checkpoint(source, 'cpu', logger='silent')
        metadata = extract_weights(content, options.weights).metadata
        model, more = _take_trained_anchors(model, metadata, options.weights)
        notes = *notes, *more
        model = _drop_init(model)  # the trained weights would replace those
    settings = _make_settings(options, model, hyp, data, notes)

    try:
        cfg, detector = build(make_config_text(model, settings))
    except UserError as error:
        raise model.add_line(find_user_error(error)) from error
    strides = list(detector.neck.strides)
    size = _round_up(options.img_size, max(strides))
    settings = replace(settings, strides=strides, img_size=size)
    model = replace(model, anchors=_find_final_anchors(model, settings, cfg))
    converted = None
    if options.weights:
        converted = _convert(
            content, detector, options.weights, data.classes if data else None
        )

    _write(options, make_config_text(model, settings), converted)
    return Report(
        config=options.out,
        weights=options.weights_out,
        converted=converted,
        num_parameters=sum(p.numel() for p in detector.parameters()),
        strides=strides,
        asked_img_size=options.img_size,
        img_size=size,
        anchors=model.anchors,
        notes=notes,
        places=data.places if data else (),
    )


def build(text: str) -> tuple[Config, nn.Module]:
    """The config of a text and its model, without loading pretrained weights."""
    cfg = Config.fromstring(text, '.py')
    cfg.model.backbone.pop('init_cfg', None)
    return cfg, build_model(cfg)


def _check_options(options: Options) -> None:
    for flag, path in (
        ('--data', options.data),
        ('--hyp', options.hyp),
        ('--weights', options.weights),
    ):
        if path == '':
            require_file(path, flag)
    check_new_file(options.out)
    if options.weights:
        check_new_file(options.weights_out)
    for flag, value in (
        ('--imgsz', options.img_size),
        ('--epochs', options.epochs),
        ('--batch-size', options.batch_size),
    ):
        if not 1 <= value < MAX_OPTION:
            raise UserError(f'write 1 to {MAX_OPTION - 1}', key=flag)


def _read_data(path: str, data_root: str | None) -> Data:
    """What a ``data.yaml`` says, once its images are found."""
    content = read_data_yaml(path)
    found = [find_sources(path, split, data_root) for split in ('train', 'val')]
    places = tuple(note for sources in found for note in sources.notes)
    # A training may be started in another folder than the import.
    root = os.path.abspath(data_root) if data_root else os.getcwd() if places else ''
    known = {'path', 'names', 'nc', *SPLITS}
    notes = (
        Note(Path(path), line, str(key))
        for key, line in content['lines'].items()
        if key not in known
    )
    return Data(
        path=str(Path(path).resolve()),
        root=root,
        classes=tuple(content['classes']),
        notes=tuple(notes),
        places=places,
    )


def _make_settings(
    options: Options,
    model: ImportedModel,
    hyp: Hyp,
    data: Data | None,
    notes: tuple[Note, ...],
) -> Settings:
    sources = options.model, options.data, options.hyp, options.weights
    normalisation = None
    if model.pretrained and not options.weights:
        # A patched YOLOv5 feeds images in 0..1, for which those weights are not.
        normalisation = get_timm_mean_std(model.pretrained)
    return Settings(
        sources=[source for source in sources if source],
        notes=notes,
        hyp=hyp,
        data=data.path if data else None,
        data_root=data.root if data else '',
        num_classes=len(data.classes) if data else None,
        img_size=options.img_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        normalisation=normalisation,
        load_from=str(options.weights_out.resolve()) if options.weights else None,
    )


def _round_up(value: int, of: int) -> int:
    return -(-value // of) * of


# ------------------------------------------------------------------------- anchors


def _take_trained_anchors(
    model: ImportedModel, metadata: dict, source: str
) -> tuple[ImportedModel, tuple[Note, ...]]:
    """The model with the anchors that its weights were trained with, and what differs.

    Raises:
        UserError: The file has another number of levels.
    """
    if 'anchors' not in metadata:
        return model, ()
    anchors = [[tuple(pair) for pair in level] for level in metadata['anchors']]
    if len(anchors) != len(model.out_rows):
        raise model.add_line(
            UserError(
                f'the {model.head} reads {len(model.out_rows)} levels, {source} has '
                f'{len(anchors)}',
                row=max(model.lines),
            )
        )
    if anchors == model.anchors:
        return model, ()
    note = Note.about(
        model.file, 'anchors', model.anchors, f': those of {source} are taken'
    )
    return replace(model, anchors=anchors), (note,)


def _find_final_anchors(
    model: ImportedModel, settings: Settings, cfg: Config
) -> Anchors:
    """The model's anchors or, where they are a count, those that fit the data."""
    anchors = model.anchors
    if isinstance(anchors, int) and settings.data:
        samples = build_dataset(cfg, 'train').load_data_list()
        anchors = compute_anchors(
            measure_boxes(samples, settings.img_size),
            len(model.out_rows),
            anchors,
            settings.hyp.prior_match_thr,
        )
    return (
        anchors
        if isinstance(anchors, int)
        else order_anchors(anchors, settings.strides)
    )


def order_anchors(anchors: Sequence[Level], strides: Sequence[int]) -> Sequence[Level]:
    """Small anchors at the small stride, whichever way the head reads its levels."""
    areas = [sum(w * h for w, h in level) for level in anchors]
    flipped = (areas[-1] - areas[0]) * (strides[-1] - strides[0]) < 0
    return anchors[::-1] if flipped else anchors


# ------------------------------------------------------------------------- weights


def _drop_init(model: ImportedModel) -> ImportedModel:
    backbone = {k: v for k, v in model.backbone.items() if k != 'init_cfg'}
    return replace(model, backbone=backbone)


def _convert(
    content: dict, detector: nn.Module, source: str, classes: Sequence[str] | None
) -> Converted:
    """The weights under our names, with the head's rows for the data's classes.

    Args:
        content: What the file holds.
        detector: The config's.
        source: The file.
        classes: Names of the data's classes, if there are data.

    Raises:
        UserError: They do not fit the model.
    """
    detector.bbox_head.init_weights()  # the rows of classes that the file has not
    receipt = adapt(content, detector, source, classes, starts_training=True)
    fit = receipt.fit
    has_head = not fit.reshaped or not all(
        name.startswith('bbox_head.') for name in fit.reshaped
    )
    if has_head:
        check(receipt, None)
    else:
        check(receipt, 'backbone.')
        check(receipt, 'neck.')
    if classes is None and receipt.classes:
        classes = receipt.classes.ours
    state = widen_to_float32(
        {name: content['state_dict'][name] for name in fit.fitting}
    )
    meta = make_meta(classes) if classes and has_head else {}
    return Converted({'meta': meta, 'state_dict': state}, receipt, has_head)


def _write(options: Options, text: str, converted: Converted | None) -> None:
    """Writes config and weights, both whole or none."""
    with atomic_write(options.out, overwrite=False) as scratch:
        scratch.write_text(text, encoding='utf-8')
        if converted:
            weights = scratch.with_name(options.weights_out.name)
            save_checkpoint(converted.checkpoint, weights)
