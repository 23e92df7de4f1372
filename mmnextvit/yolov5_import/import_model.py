"""A YOLOv5 model, with its data, hyperparameters and weights, as a config of ours."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import nn

from ..datasets.anchors import compute_anchors, measure_boxes
from ..datasets.data_yaml import SPLITS, Sources, find_sources, read_data_yaml
from ..engine.configs import parse_config
from ..engine.runner import build_dataset, build_model
from ..models.timm_features import get_timm_mean_std
from ..models.yolov5_row_files import import_row_files
from ..utils.errors import MissingFileError, UserError, find_user_error
from ..utils.files import atomic_write, check_new_file, require_file
from ..utils.yaml_reader import YAMLFile, read_yaml
from ..weights.contents import extract_weights, widen_to_float32
from ..weights.conversion import make_meta, save_checkpoint
from ..weights.loading import adapt, check
from ..weights.receipt import Receipt
from ..weights.records import Record
from .config_text import Settings, make_config_text
from .hyp import Hyp, read_hyp
from .model_yaml import Anchors, ImportedModel, read_channels, read_model
from .notes import Note

MAX_OPTION = 100_000  # exclusive
ADDED = 'inplace', 'yaml_file'  # to a YAML by YOLOv5; they say nothing here
COCO_CLASSES = 80  # of the config that ours inherits from
TRAINED = ('.pt', '.pth')  # what holds weights, and a YAML of its own

Level = Sequence[tuple[float, float]]  # width and height of each anchor


@dataclass(frozen=True)
class Options:
    """What is imported, and for which training.

    Attributes:
        model: YOLOv5's YAML of the model, or the trained ``.pt`` alone.
        out: The config to write; weights go beside it, under its name with ``.pth``.
        data: YOLOv5's ``data.yaml``.
        data_root: Folder that its relative paths may count from, too.
        hyp: YOLOv5's hyperparameters.
        weights: A trained ``.pt`` of that model. Its classes and anchors win over those
            of the YAML, as in YOLOv5.
        img_size: Side of the square that images are fitted into, in pixels; ``None``
            takes the one that the weights were trained with, else 640.
        epochs: Length of the training.
        batch_size: Images per process and iteration.
        modules: Python files that register modules of rows, or backbones; they are run.
    """

    model: str
    out: Path
    data: str | None = None
    data_root: str | None = None
    hyp: str | None = None
    weights: str | None = None
    img_size: int | None = None
    epochs: int = 300
    batch_size: int = 16
    modules: Sequence[str] = ()

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
class Trained:
    """A trained ``.pt``.

    Attributes:
        source: The file.
        content: What it holds.
        metadata: What it says of its model, as in
            :class:`~mmnextvit.weights.contents.Weights`.
    """

    source: str
    content: dict
    metadata: Mapping[str, object]

    @property
    def num_classes(self) -> int | None:
        found = self.metadata.get('num_classes')
        return found if isinstance(found, int) else None

    @property
    def head(self) -> str:
        """What it has in the place of YOLOv5's head, if it has another."""
        return str(self.metadata.get('head', ''))

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of its classes; YOLOv5's own where it has a number alone."""
        names, count = self.metadata.get('classes'), self.num_classes
        if isinstance(names, list) and count in (None, len(names)):
            return tuple(names)
        return name_classes(count) if count else None

    @property
    def yaml(self) -> YAMLFile | None:
        """The YAML of its model, if it holds that."""
        found = self.metadata.get('yaml')
        if not isinstance(found, dict):
            return None
        content = {key: value for key, value in found.items() if key not in ADDED}
        return YAMLFile(Path(self.source), content, {})

    @property
    def options(self) -> Mapping[str, object]:
        """YOLOv5's options of its training, where the file has them."""
        found = self.content.get('opt')
        found = found.state if isinstance(found, Record) else found
        return found if isinstance(found, dict) else {}

    @property
    def img_size(self) -> int | None:
        """The side of the images that it was trained with, in pixels."""
        size = self.options.get('imgsz', self.options.get('img_size'))
        size = size[0] if isinstance(size, list) and size else size
        return size if type(size) is int and 0 < size < MAX_OPTION else None


@dataclass(frozen=True)
class Converted:
    """Weights under our names.

    Attributes:
        checkpoint: What is saved.
        receipt: What the file brought to the model.
        has_head: Whether the head's weights are among them.
        why: Why they are not, if not.
    """

    checkpoint: dict[str, object]
    receipt: Receipt
    has_head: bool
    why: str


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
                lines.append(f'The head starts anew: the file has {self.converted.why}')
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
    if Path(options.model).suffix.lower() in TRAINED:
        if options.weights:
            raise UserError(
                f'{options.model} is no YAML, and holds weights as {options.weights} '
                'does: give one of them, or the YAML first'
            )
        options = replace(options, model='', weights=options.model)
    _check_options(options)
    options = replace(options, modules=import_row_files(options.modules))
    trained = read_trained(options.weights) if options.weights else Trained('', {}, {})
    model = read_model(_find_yaml(options, trained), bool(options.weights))
    hyp = _read_hyp(options, trained)
    data = _read_data(options.data, options.data_root) if options.data else None
    notes = *model.notes, *hyp.notes, *(data.notes if data else ())
    model = replace(model, anchors=hyp.num_anchors or model.anchors)
    if options.weights:
        model, more = _take_trained_anchors(model, trained)
        model, also = _take_trained_classes(model, trained)
        model, channels = _take_trained_channels(model, trained)
        notes = *notes, *more, *also, *channels
    if options.img_size is None:
        options = replace(options, img_size=trained.img_size or 640)
    classes = data.classes if data else trained.classes
    if options.weights and not classes and model.num_classes != COCO_CLASSES:
        classes = name_classes(model.num_classes)
    settings = _make_settings(options, model, hyp, data, classes, notes)

    try:
        cfg, detector = build(make_config_text(model, settings))
    except UserError as error:
        raise model.add_line(find_user_error(error)) from error
    strides = list(detector.neck.strides)
    asked = options.img_size or 640
    size = _round_up(asked, max(strides))
    settings = replace(settings, strides=strides, img_size=size)
    model = replace(model, anchors=_find_final_anchors(model, settings, cfg))
    converted = None
    if options.weights:
        converted = _convert(trained, detector, options.model, classes)

    _write(options, make_config_text(model, settings), converted)
    return Report(
        config=options.out,
        weights=options.weights_out,
        converted=converted,
        num_parameters=sum(p.numel() for p in detector.parameters()),
        strides=strides,
        asked_img_size=asked,
        img_size=size,
        anchors=model.anchors,
        notes=notes,
        places=data.places if data else (),
    )


def build(text: str) -> tuple[Config, nn.Module]:
    """The config of a text and its model, without loading pretrained weights."""
    cfg = parse_config(text)
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
        if value is not None and not 1 <= value < MAX_OPTION:
            raise UserError(f'write 1 to {MAX_OPTION - 1}', key=flag)


def _read_data(path: str, data_root: str | None) -> Data:
    """What a ``data.yaml`` says, once its images are found."""
    content = read_data_yaml(path)
    if data_root and not os.path.isdir(data_root):
        raise MissingFileError(f'--data-root {data_root} is no folder')
    found = _find_both(path, data_root)
    places = tuple(note for sources in found for note in sources.notes)
    root = os.path.abspath(data_root) if data_root else ''
    # A training may be started in another folder than the import. As data_root this one
    # is tried earlier, before the folder above the file's.
    here = os.getcwd()
    if places and not root:
        again = _find_both(path, here)
        root = here if [s.paths for s in again] == [s.paths for s in found] else ''
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


def _find_both(path: str, data_root: str | None) -> list[Sources]:
    """Where the images lie that a model is trained and validated on."""
    return [find_sources(path, split, data_root) for split in ('train', 'val')]


def _make_settings(
    options: Options,
    model: ImportedModel,
    hyp: Hyp,
    data: Data | None,
    classes: Sequence[str] | None,
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
        classes=classes,
        img_size=options.img_size or 640,
        epochs=options.epochs,
        batch_size=options.batch_size,
        normalisation=normalisation,
        load_from=str(options.weights_out.resolve()) if options.weights else None,
        modules=options.modules,
    )


def _round_up(value: int, of: int) -> int:
    return -(-value // of) * of


# ------------------------------------------------------------------------- anchors


def _take_trained_anchors(
    model: ImportedModel, trained: Trained
) -> tuple[ImportedModel, tuple[Note, ...]]:
    """The model with the anchors that its weights were trained with, and what differs.

    Raises:
        UserError: The file has another number of levels.
    """
    source = trained.source
    if 'anchors' not in trained.metadata:
        return model, ()
    found: Any = trained.metadata['anchors']
    anchors = [[tuple(pair) for pair in level] for level in found]
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


def name_classes(count: int) -> tuple[str, ...]:
    """Names of classes of which the number alone is known."""
    return tuple(f'class{i}' for i in range(count))


def read_trained(path: str) -> Trained:
    """A trained ``.pt``, whose code is not run.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is another program's, or holds no weights.
    """
    source = require_file(path, 'weights')
    content = CheckpointLoader.load_checkpoint(source, 'cpu', logger='silent')
    return Trained(path, content, extract_weights(content, path).metadata)


def _find_yaml(options: Options, trained: Trained) -> YAMLFile:
    """The model's YAML: the one that is given, else the one inside the weights."""
    if options.model:
        return read_yaml(options.model)
    if trained.yaml is None:
        raise UserError(
            'the file does not hold the YAML of its model: give that too, as in '
            f'mmnextvit import_yolov5 model.yaml --weights {trained.source} -o ...',
            file=trained.source,
        )
    return trained.yaml


def _read_hyp(options: Options, trained: Trained) -> Hyp:
    """Hyperparameters of the file that is given, else those that the weights name."""
    if options.hyp:
        return read_hyp(read_yaml(options.hyp))
    found = trained.options.get('hyp')
    if not isinstance(found, dict):
        return Hyp()
    try:
        return read_hyp(YAMLFile(Path(trained.source), found, {}))
    except UserError as error:
        note = Note(
            Path(trained.source),
            None,
            f'opt.hyp: {error.key}: {error.problem}: our own hyperparameters are taken',
        )
        return Hyp(notes=(note,))


def _take_trained_classes(
    model: ImportedModel, trained: Trained
) -> tuple[ImportedModel, tuple[Note, ...]]:
    """The model with as many classes as its weights have, and what differs."""
    count = trained.num_classes
    if count is None or count == model.num_classes:
        return model, ()
    note = Note.about(
        model.file, 'nc', model.num_classes, f': {count} of {trained.source} is taken'
    )
    return replace(model, num_classes=count), (note,)


def _take_trained_channels(
    model: ImportedModel, trained: Trained
) -> tuple[ImportedModel, tuple[Note, ...]]:
    """The model for the images that its weights are of, and what differs.

    YOLOv5 writes their channels into the YAML that the file holds, whatever the one
    said that it was trained with.

    Raises:
        UserError: None of our detectors takes as many.
    """
    if trained.yaml is None or 'ch' not in trained.yaml.content:
        return model, ()
    count = read_channels(trained.yaml)
    if count == model.in_channels:
        return model, ()
    rest = f': {count} of {trained.source} is taken'
    note = Note.about(model.file, 'ch', model.in_channels, rest)
    return replace(model, in_channels=count), (note,)


def _convert(
    trained: Trained, detector: nn.Module, yaml: str, classes: Sequence[str] | None
) -> Converted:
    """The weights under our names, with the head's rows for the config's classes.

    Args:
        trained: The file.
        detector: The config's.
        yaml: The YAML that the config was made from, empty for the file's own.
        classes: Names of the config's classes, if they are known.

    Raises:
        UserError: They do not fit the model.
    """
    content, source = trained.content, trained.source
    detector.bbox_head.init_weights()  # the rows of classes that the file has not
    receipt = adapt(content, detector, source, classes, starts_training=True)
    fit = receipt.fit
    head = [name for name in fit.reshaped if name.startswith('bbox_head.')]
    has_head = not trained.head and not head
    _check_widths(receipt, trained, yaml)
    if has_head:
        check(receipt, None)
    else:
        check(receipt, 'backbone.')
        check(receipt, 'neck.')
    state = widen_to_float32(
        {name: content['state_dict'][name] for name in fit.fitting}
    )
    meta = make_meta(classes) if classes and has_head else {}
    why = trained.head or 'another number of anchors'
    return Converted({'meta': meta, 'state_dict': state}, receipt, has_head, why)


def _check_widths(receipt: Receipt, trained: Trained, yaml: str) -> None:
    """Raises where layers are of other widths than the YAML says.

    Raises:
        UserError: Which, and what it means.
    """
    reshaped = {
        name: shapes
        for name, shapes in receipt.fit.reshaped.items()
        if not name.startswith('bbox_head.')
    }
    if not reshaped:
        return
    name, (theirs, ours) = next(iter(reshaped.items()))
    example = f'{name} is {_join_sides(theirs)}, by the YAML {_join_sides(ours)}'
    if yaml and trained.metadata.get('yaml') and not _are_same_rows(trained, yaml):
        problem = (
            f'the weights do not fit: {yaml} is of another model. Leave it out, as the '
            f'file holds the YAML of its own ({len(reshaped)} tensors are of another '
            f'shape; {example})'
        )
    else:
        problem = (
            f'the weights do not fit: the widths of {len(reshaped)} tensors are not '
            f'those of the YAML, as in a model that was pruned ({example}). A config '
            'builds the model from the YAML, so such weights have no place in it'
        )
    raise UserError(problem, file=trained.source)


def _are_same_rows(trained: Trained, yaml: str) -> bool:
    """Whether a YAML is the one that weights hold, but for classes and anchors."""
    keys = 'backbone', 'head', 'depth_multiple', 'width_multiple'
    own, given = trained.metadata['yaml'], read_yaml(yaml).content
    assert isinstance(own, dict)
    return all(repr(own.get(key)) == repr(given.get(key)) for key in keys)


def _join_sides(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))


def _write(options: Options, text: str, converted: Converted | None) -> None:
    """Writes config and weights, both whole or none."""
    with atomic_write(options.out, overwrite=False) as scratch:
        scratch.write_text(text, encoding='utf-8')
        if converted:
            weights = scratch.with_name(options.weights_out.name)
            save_checkpoint(converted.checkpoint, weights)
