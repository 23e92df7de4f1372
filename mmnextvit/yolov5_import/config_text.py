"""The config of an imported model: sections of statements, and their text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..models.map_numbers import get_level_weights
from ..models.yolov5_modules import NORM_CFG
from ..utils.render import Assign, Code, Comment, Extended, Rows, Statement, render
from .hyp import AFFINE, FLIP, HSV, Hyp
from .model_yaml import OUR_BACKBONES, RGB, ImportedModel
from .notes import Note

HEAD_MODULES = {'Detect': 'YOLOv5HeadModule', 'Segment': 'YOLOv5InsHeadModule'}
MAX_NOTES = 15  # that the config lists
MAX_LINES = 80
# What YOLOv5's val.py has where MMYOLO's recipe follows COCO's rules.
VAL_IOU = 0.6  # of NMS
VAL_RULES = dict(rules='yolov5', map_detections=300, proposal_nums=(1, 10, 300))
WARMUP_ITERATIONS = 100  # at least; the recipe's 1000 are for COCO

IMG_SCALE = Code('img_scale')
TRAIN_PIPELINE = Code('train_pipeline')
TEST_PIPELINE = Code('test_pipeline')
METAINFO = Code('dict(classes=classes)')


@dataclass(frozen=True)
class Settings:
    """What a config says beside the model.

    Attributes:
        sources: Files that the model comes from.
        notes: What has no counterpart.
        strides: Strides of the head's levels in pixels.
        hyp: Hyperparameters.
        data: Path of a data.yaml.
        data_root: Folder that its relative paths may count from, too.
        classes: Names of the data's classes, or of those of the weights; ``None`` takes
            as many as the model has.
        img_size: Side of the square that images are fitted into, in pixels.
        epochs: Length of the training.
        batch_size: Images per process and iteration.
        normalisation: ``mean`` and ``std`` of the images in 0..255.
        load_from: Weights to begin with.
        modules: Files of one's own that register what the model names.
    """

    sources: Sequence[str] = ()
    notes: Sequence[Note] = ()
    strides: Sequence[int] = (8, 16, 32)
    hyp: Hyp = field(default_factory=Hyp)
    data: str | None = None
    data_root: str = ''
    classes: Sequence[str] | None = None
    img_size: int = 640
    epochs: int = 300
    batch_size: int = 16
    normalisation: Mapping[str, list[float]] | None = None
    load_from: str | None = None
    modules: Sequence[str] = ()


def make_config_text(model: ImportedModel, settings: Settings) -> str:
    """The config as text, of at most 80 lines, that inherits from ours."""
    sections = (
        _make_header,
        _make_variables,
        _make_model,
        _make_pipelines,
        _make_data,
        _make_schedule,
    )
    statements = [item for part in sections for item in part(model, settings)]
    return render(statements, MAX_LINES)


def _make_header(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    sources = ', '.join(settings.sources)
    yield Comment(f'From {sources}, by mmnextvit import_yolov5')
    for note in settings.notes[:MAX_NOTES]:
        yield Comment(f'No counterpart: {note}')
    if len(settings.notes) > MAX_NOTES:
        more = len(settings.notes) - MAX_NOTES
        yield Comment(f'and {more} more, which the import has printed')
    recipe = 'yolov5_ins_recipe' if model.predicts_masks else 'yolov5_recipe'
    yield Assign(
        '_base_', Code(f"__import__('mmnextvit').config_file('_base_/{recipe}')")
    )
    yield Comment('')


def _make_variables(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    if settings.classes:
        yield Assign('classes', tuple(settings.classes), in_one_line=True)
    if model.in_channels != RGB:
        yield Assign('in_channels', model.in_channels)
    yield Assign('img_scale', (settings.img_size, settings.img_size))
    if settings.load_from:
        yield Assign('load_from', settings.load_from)
    outputs = model.num_anchors * (_count_classes(model, settings) + 5)
    yield Assign('scaling', {**model.scaling, 'num_outputs': outputs})
    if model.backbone_rows:
        yield Assign('backbone_rows', Rows(model.backbone_rows, 0))
    yield Assign('neck_rows', Rows(model.neck_rows, model.first_neck_row))
    comment = 'Width and height in pixels, or a count, by level'
    yield Assign('anchors', model.anchors, comment)


def _make_model(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    scaling = Code('scaling')
    if model.backbone_rows:
        arguments = dict(
            _delete_=True,
            type='YOLOv5YAMLBackbone',
            rows=Code('backbone_rows'),
            out_rows=model.in_rows,
        )
        backbone: object = Extended(scaling, arguments)
    else:
        backbone = dict(_delete_=True, **model.backbone)
        if model.backbone['type'] in OUR_BACKBONES:
            backbone.setdefault('norm_cfg', NORM_CFG)
    neck = dict(
        _delete_=True,
        type='YOLOv5YAMLNeck',
        rows=Code('neck_rows'),
        out_rows=model.out_rows,
    )
    detector = dict(
        type='FittedYOLODetector',
        backbone=backbone,
        neck=Extended(scaling, neck),
        bbox_head=_make_head(model, settings),
        test_cfg=dict(nms=dict(iou_threshold=VAL_IOU)),
    )
    if settings.modules:
        detector['modules'] = list(settings.modules)
    if settings.normalisation:
        detector['data_preprocessor'] = dict(settings.normalisation)
    yield Assign('model', detector)


def _make_head(model: ImportedModel, settings: Settings) -> dict[str, object]:
    levels = len(model.out_rows)
    weights = _compute_loss_weights(model, settings)
    head: dict[str, object] = dict(
        head_module=dict(
            _delete_=True,
            type=HEAD_MODULES[model.head],
            num_classes=_count_classes(model, settings),
            **model.head_args,
        ),
        prior_generator=dict(
            _delete_=True, type='mmdet.YOLOAnchorGenerator', base_sizes=Code('anchors')
        ),
        obj_level_weights=get_level_weights(levels),
        prior_match_thr=settings.hyp.prior_match_thr,
    )
    for name, weight in weights.items():
        head[f'loss_{name}'] = dict(loss_weight=weight)
    if model.predicts_masks:
        head['loss_mask_weight'] = weights['bbox']
    return head


def _compute_loss_weights(model: ImportedModel, settings: Settings) -> dict[str, float]:
    """YOLOv5's: gains count for 80 classes, three levels and images of 640 pixels."""
    gains, levels = settings.hyp.gains, len(model.out_rows)
    weights = {
        'cls': gains['cls'] * _count_classes(model, settings) / 80 * 3 / levels,
        'bbox': gains['bbox'] * 3 / levels,
        'obj': gains['obj'] * (settings.img_size / 640) ** 2 * 3 / levels,
    }
    return {name: round(weight, 8) for name, weight in weights.items()}


def _make_pipelines(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    """Pipelines of the recipe with another size and other strengths."""
    hyp = settings.hyp
    half = -settings.img_size // 2
    border = (half, half) if hyp.mosaic else (0, 0)
    changed = {
        'Mosaic': dict(img_scale=IMG_SCALE),
        AFFINE: dict(border=border, **hyp.transforms.get(AFFINE, {})),
        'YOLOv5KeepRatioResize': dict(scale=IMG_SCALE),
        'LetterResize': dict(scale=IMG_SCALE),
        **{
            name: hyp.transforms[name] for name in (HSV, FLIP) if name in hyp.transforms
        },
    }
    yield Assign('changed', changed)
    change = "[{**t, **changed.get(t['type'], {})} for t in "
    yield Assign('train_pipeline', Code(f'{change}_base_.train_pipeline]'))
    yield Assign('test_pipeline', Code(f'{change}_base_.test_pipeline]'))
    yield _make_predict_resizing(settings)
    meta_keys = "test_pipeline[-1]['meta_keys']"
    yield Assign(meta_keys, Code(f"(*{meta_keys}, 'instances')"), 'For the metric')
    if not hyp.mosaic:
        resize = Extended(Code('test_pipeline[2]'), dict(allow_scale_up=True))
        yield Assign('train_pipeline[2:3]', [Code('test_pipeline[1]'), resize])
    elif hyp.mixup:
        mixup = dict(
            type='YOLOv5MixUp', prob=hyp.mixup, pre_transform=Code('train_pipeline[:4]')
        )
        yield Assign('train_pipeline[4:4]', [mixup])
    if hyp.vertical_flip:
        flip = dict(type=FLIP, prob=hyp.vertical_flip, direction='vertical')
        yield Assign('train_pipeline[-1:-1]', [flip])


def _make_predict_resizing(settings: Settings) -> Statement:
    """What detect.py pads to: val.py pads to the shape of a batch."""
    resize = dict(
        type='YOLOv5LetterResize', scale=IMG_SCALE, stride=max(32, *settings.strides)
    )
    return Assign('predict_resizing', [resize])


def _make_evaluators(settings: Settings) -> Statement:
    """The evaluators that count as val.py does."""
    truth = {} if settings.data is None else dict(ann_file=None)
    return Assign('val_evaluator = test_evaluator', {**truth, **VAL_RULES})


def _make_data(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    train = dict(pipeline=TRAIN_PIPELINE)
    shapes = dict(img_size=settings.img_size, size_divisor=max(settings.strides))
    val = dict(pipeline=TEST_PIPELINE, batch_shapes_cfg=shapes)
    if settings.data is not None:
        data: dict[str, object] = dict(
            type='VerifiedYOLOTxtDataset',
            data_root=settings.data_root,
            ann_file=settings.data,
            data_prefix=dict(_delete_=True),
        )
        if model.predicts_masks:
            data['polygons'] = True
        yield Assign('data', data)
    loader = dict(
        batch_size=settings.batch_size, dataset=_make_dataset(settings, 'train', train)
    )
    yield Assign('train_dataloader', loader)
    loader = dict(dataset=_make_dataset(settings, 'val', val))
    yield Assign('val_dataloader = test_dataloader', loader)
    yield _make_evaluators(settings)


def _make_dataset(
    settings: Settings, split: str, changes: Mapping[str, object]
) -> Mapping[str, object] | Extended:
    """Changes of the recipe's dataset; of ``data`` where there is a data.yaml."""
    if settings.classes:
        changes = dict(metainfo=METAINFO, **changes)
    if settings.data is None:
        return changes
    return Extended(Code('data'), dict(split=split, **changes))


def _make_schedule(model: ImportedModel, settings: Settings) -> Iterator[Statement]:
    hyp, epochs = settings.hyp, settings.epochs
    optimizer = dict(**hyp.optimizer, batch_size_per_gpu=settings.batch_size)
    yield Assign('optim_wrapper', dict(optimizer=optimizer))
    schedule = dict(
        max_epochs=epochs, warmup_mim_iter=WARMUP_ITERATIONS, **hyp.schedule
    )
    yield Assign('default_hooks', dict(param_scheduler=schedule))
    yield Assign('train_cfg', dict(max_epochs=epochs))


def _count_classes(model: ImportedModel, settings: Settings) -> int:
    return len(settings.classes) if settings.classes else model.num_classes
