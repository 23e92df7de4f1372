"""The loss of the validation is that of training for the same images."""

import copy
import json
import random
from types import SimpleNamespace

from mmnextvit.engine import validation_loss
from mmnextvit.engine.runner import load_detector
from mmnextvit.engine.validation_loss import ValidationLossHook, average
from mmnextvit.models.fold import copy_folded
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmyolo.registry import DATASETS
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import TINY
from tests.helpers.commands import call_here, working_in
from tests.helpers.tiny_run import write_tiny_run

pytestmark = pytest.mark.slow  # each builds a model

SIZE = 96  # images of 64 x 48 are resized by 1.5 to 96 x 72
YOLO = ['yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
MMDET = [
    'faster_rcnn_nextvit_s_fpn_1x_coco',
    'mask_rcnn_nextvit_s_fpn_1x_coco',
    'retinanet_nextvit_s_fpn_1x_coco',
    'conditional_detr_nextvit_s_50e_coco',
]


def set_everywhere(node, **values):
    """Sets keys of a config wherever they stand."""
    if isinstance(node, dict):
        for key in node:
            if key in values:
                node[key] = values[key]
            else:
                set_everywhere(node[key], **values)
    elif isinstance(node, list | tuple):
        for item in node:
            set_everywhere(item, **values)


def build_model(name, load_config, lively):
    """A detector of two classes on the tiny backbone, whose heads draw no samples."""
    cfg = load_config(name)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = cfg.model
    model.backbone.update(arch=dict(TINY), drop_path_rate=0.0, init_cfg=None)
    model.backbone.pop('frozen_stages', None)
    widths = TINY['stage_channels']
    if name in MMDET:
        levels = model.backbone.get('out_indices', range(4))
        model.neck.in_channels = [widths[i] for i in levels]
    elif name != 'yolov5_nextvit_s':
        model.neck.in_channels = list(widths[1:])
        if name == 'yolov8_nextvit_s':
            model.neck.out_channels = list(widths[1:])
            model.bbox_head.head_module.in_channels = list(widths[1:])
    set_everywhere(model, num_classes=2, num=10**6, max_per_img=20)
    torch.manual_seed(0)
    return lively(MODELS.build(model))


def build_data(name, coco, first=False, masks=False):
    """The validation data as the recipes load them: boxes after the resizing."""
    load = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=masks)
    if name in MMDET:
        resize = [dict(type='mmdet.Resize', scale=(SIZE, SIZE), keep_ratio=True)]
    else:
        resize = [
            dict(type='YOLOv5KeepRatioResize', scale=(SIZE, SIZE)),
            dict(type='LetterResize', scale=(SIZE, SIZE), pad_val=dict(img=114)),
        ]
    init_default_scope('mmyolo')
    keys = ['img_id', 'ori_shape', 'img_shape', 'scale_factor']
    keys += [] if name in MMDET else ['pad_param']
    steps = [load, *resize] if first else [*resize, load]
    return coco.build(
        pipeline=[
            dict(type='LoadImageFromFile'),
            *steps,
            dict(type='mmdet.PackDetInputs', meta_keys=keys),
        ],
        test_mode=True,
    )


def fake_runner(model, data, train_batch, lines=None, fold=None):
    """What the hook asks of a runner that validates."""
    lines = [] if lines is None else lines
    hub = MessageHub.get_instance(f'validation_loss_{random.random()}')
    sampler = SimpleNamespace(batch_size=train_batch)
    return SimpleNamespace(
        model=copy.deepcopy(model) if fold is None else fold(model),
        message_hub=hub,
        log_processor=SimpleNamespace(log_with_hierarchy=False),
        logger=SimpleNamespace(warning=lines.append),
        _train_loop=object(),
        train_dataloader=SimpleNamespace(batch_sampler=sampler),
        val_dataloader=SimpleNamespace(dataset=data),
        val_loop=SimpleNamespace(fp16=False),
        seed=3,
        _randomness_cfg={},
    )


def validate(runner, batches, hook=None):
    """Losses of the batches, by the names that logs have."""
    hook = hook or ValidationLossHook()
    runner.model.eval()
    hook.before_val_epoch(runner)
    with torch.no_grad():
        for i, batch in enumerate(batches):
            hook.before_val_iter(runner, i, batch)
            outputs = runner.model.val_step(batch)
            hook.after_val_iter(runner, i, batch, outputs)
    hook.after_val_epoch(runner, {})
    scalars = runner.message_hub.log_scalars
    return {
        name.removeprefix('val/'): buffer.mean(10)
        for name, buffer in scalars.items()
        if name.startswith('val/')
    }


def compute_reference(name, model, batch, masks):
    """The loss of the same images in training mode, with BatchNorms as in evaluation.

    Boxes are (4, 4, 24, 24) in the file.
    """
    top = (SIZE - 72) // 2 if name in YOLO else 0
    box = torch.tensor([6.0, 6 + top, 36, 36 + top])
    labels = [int(sample.img_id) % 2 for sample in batch['data_samples']]
    images = batch['inputs']
    if name in YOLO:
        rows = [torch.tensor([i, label, *box]) for i, label in enumerate(labels)]
        data = dict(
            inputs=torch.stack(images),
            data_samples=dict(bboxes_labels=torch.stack(rows)),
        )
        if name == 'rtmdet_nextvit_s':
            model.data_preprocessor.batch_augments = None
    else:
        samples = []
        for label in labels:
            truth = InstanceData(bboxes=box[None].clone(), labels=torch.tensor([label]))
            if masks:
                mask = np.zeros((1, 72, SIZE), np.uint8)
                mask[:, 6:36, 6:36] = 1
                truth.masks = BitmapMasks(mask, 72, SIZE)
            samples.append(
                DetDataSample(
                    metainfo=dict(img_shape=(72, SIZE), scale_factor=(1.5, 1.5)),
                    gt_instances=truth,
                    ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
                )
            )
        data = dict(inputs=list(images), data_samples=samples)
    model.train()
    for module in model.modules():
        if isinstance(
            module, _BatchNorm | torch.nn.Dropout | torch.nn.MultiheadAttention
        ):
            module.eval()
    with torch.no_grad():
        total, losses = model.parse_losses(
            model(**model.data_preprocessor(data, True), mode='loss')
        )
    return {f'val/{k}': v.item() for k, v in losses.items() if 'loss' in k}


@pytest.mark.parametrize('name', YOLO + MMDET)
def test_same_images_have_the_same_loss(name, load_config, lively, coco):
    masks = 'mask_rcnn' in name
    if masks:
        for box in coco.content['annotations']:
            box['segmentation'] = [[4, 4, 24, 4, 24, 24, 4, 24]]
    model = build_model(name, load_config, lively)
    data = build_data(name, coco, masks=masks)
    batch = pseudo_collate([data[i] for i in range(3)])
    reference = compute_reference(name, copy.deepcopy(model), batch, masks)
    lines = []
    # Proposals would change with a rounding.
    fold = copy_folded if name in YOLO else None
    runner = fake_runner(model, data, 3, lines, fold)
    counted = []
    neck = runner.model.neck
    neck.register_forward_hook(lambda *args: counted.append(1))
    hook = ValidationLossHook()
    found = validate(runner, [batch], hook)
    assert not lines
    assert found == pytest.approx(reference, rel=1e-3, abs=1e-5)
    assert {'val/loss', 'val/loss_cls', 'val/loss_bbox'} <= found.keys()
    assert len(counted) == 1  # backbone and neck compute once
    assert 'extract_feat' not in vars(runner.model)
    assert not any(m.training for m in runner.model.modules())


def test_batches_count_by_their_images(load_config, lively, coco):
    """In the measure of training batches of four images, whatever those here are."""
    name = 'yolov5_nextvit_s'
    model = build_model(name, load_config, lively)
    data = build_data(name, coco)
    batches = [pseudo_collate([data[i] for i in part]) for part in ([0, 1], [2])]
    parts = [compute_reference(name, copy.deepcopy(model), b, False) for b in batches]
    found = validate(fake_runner(model, data, 4), batches)
    for key, loss in found.items():
        means = parts[0][key] / 2, parts[1][key]  # of an image
        assert loss == pytest.approx(4 * (2 * means[0] + means[1]) / 3, rel=1e-4)


def test_boxes_that_were_resized_stay(load_config, lively, coco):
    model = build_model('yolov8_nextvit_s', load_config, lively)
    losses = []
    for first in (True, False):
        data = build_data('yolov8_nextvit_s', coco, first=first)
        batch = pseudo_collate([data[0], data[1]])
        losses.append(validate(fake_runner(model, data, 2), [batch]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize('name', YOLO)
def test_images_without_boxes_and_with_crowds(name, load_config, lively, coco):
    """Crowds are no boxes; the samples, which metrics read, stay as they are."""
    annotations = coco.content['annotations']
    annotations[1]['iscrowd'] = 1
    del annotations[0]
    model = build_model(name, load_config, lively)
    data = build_data(name, coco)
    assert [len(data[i]['data_samples'].gt_instances) for i in range(3)] == [0, 0, 1]
    batches = [pseudo_collate([data[i]]) for i in range(3)]
    before = copy.deepcopy(batches)
    lines = []
    found = validate(fake_runner(model, data, 2, lines), batches)
    assert not lines and np.isfinite([*found.values()]).all() and found['val/loss'] > 0
    for batch, old in zip(batches, before, strict=True):
        (sample,), (kept,) = batch['data_samples'], old['data_samples']
        boxes = [one.gt_instances.bboxes.tensor for one in (sample, kept)]
        assert torch.equal(*boxes)


def test_drawn_samples_are_the_same_and_change_nothing(load_config, lively, coco):
    name = 'faster_rcnn_nextvit_s_fpn_1x_coco'
    model = build_model(name, load_config, lively)
    set_everywhere(model.train_cfg, num=16)
    model.rpn_head.sampler.num = 16
    model.roi_head.bbox_sampler.num = 16
    data = build_data(name, coco)
    batch = pseudo_collate([data[0]])
    runner, hook = fake_runner(model, data, 1), ValidationLossHook()
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = validate(runner, [batch], hook)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    torch.manual_seed(2)
    assert validate(runner, [batch], hook) == first and len(first) == 5
    runner.seed = 4  # so that samples are drawn indeed
    assert validate(runner, [batch], hook) != first


def test_two_processes_count_each_image_once(load_config, lively, coco, monkeypatch):
    """The sampler of three images gives the first one to both."""
    name = 'rtmdet_nextvit_s'
    model = build_model(name, load_config, lively)
    data = build_data(name, coco)
    data.data_address = data.data_address[:3]
    batches = [pseudo_collate([data[i]]) for i in range(3)]
    whole = validate(fake_runner(model, data, 2), batches)
    monkeypatch.setattr(validation_loss, 'get_world_size', lambda: 2)
    gathered = []

    def gather(own):
        gathered.append(own)
        return gathered

    monkeypatch.setattr(validation_loss, 'all_gather_object', gather)
    for rank, indices in enumerate([(0, 2), (1, 0)]):
        monkeypatch.setattr(validation_loss, 'get_rank', lambda rank=rank: rank)
        runner = fake_runner(model, data, 2)
        found = validate(runner, [batches[i] for i in indices])
    assert [images for _, _, images in gathered] == [2, 1]
    assert found == pytest.approx(whole)
    assert average([dict(a=3.0), dict(a=1.0, b=2.0)], [2, 2]) == dict(a=1.0, b=0.5)


def test_what_cannot_says_so_once(load_config, lively, coco):
    """Without boxes, with a head that fails, with NaN: a line, and no loss."""
    name = 'yolov5_nextvit_s'
    model = build_model(name, load_config, lively)
    data = build_data(name, coco)
    batch = pseudo_collate([data[0]])

    def lines_of(change, times=1):
        lines, hook = [], ValidationLossHook()
        runner = fake_runner(model, change[1] if change[1] else data, 2, lines)
        change[0](runner.model)
        for _ in range(2):
            assert validate(runner, [batch], hook) == {}
        assert len(lines) == times
        return lines[0]

    no_boxes = SimpleNamespace(pipeline=SimpleNamespace(transforms=[]), metainfo={})
    assert 'it has no dict(type=' in lines_of((lambda m: None, no_boxes))

    def fail(model):
        model.bbox_head.loss = lambda *args: 1 / 0

    line = lines_of((fail, None))
    assert 'ZeroDivisionError' in line and 'default_hooks.val_loss=None' in line

    def spoil(model):
        model.bbox_head.loss = lambda *args: dict(loss_cls=torch.tensor(float('nan')))

    assert 'NaN or infinite (loss, loss_cls)' in lines_of((spoil, None), 2)
    with pytest.raises(UserError, match='is no detector'):
        validation_loss.KeptMaps(torch.nn.Linear(1, 1))


@pytest.mark.slow
def test_a_training_logs_it(tmp_path):
    """Beside mAP, of the averaged weights; it is not what the best is chosen by."""
    config = write_tiny_run(tmp_path)
    run = ('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    call_here('train', config, '--work-dir', 'run', *run, cwd=tmp_path)
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    (logged,) = (entry for entry in entries if 'val/loss' in entry)
    assert {'coco/bbox_mAP', 'val/loss_cls', 'val/loss_bbox', 'val/loss_obj'} <= {
        *logged
    }
    assert logged['step'] == 1 and 'loss' not in logged
    assert not [p.name for p in (tmp_path / 'run').glob('best_*') if 'loss' in p.name]

    cfg = Config.fromfile(config)
    with working_in(tmp_path):
        model = load_detector(cfg, 'run/epoch_1.pth')  # the averaged weights
        data = DATASETS.build(cfg.val_dataloader.dataset)
        losses = []
        for sample in data:
            truth = sample['data_samples'].gt_instances  # loaded before it is resized
            boxes = truth.bboxes.tensor
            rows = torch.cat(
                [torch.zeros(len(boxes), 1), truth.labels[:, None], boxes], 1
            )
            batch = dict(
                inputs=sample['inputs'][None].float(),
                data_samples=dict(bboxes_labels=rows),
            )
            with torch.no_grad():
                found = model(**model.data_preprocessor(batch, True), mode='loss')
            losses.append(sum(found.values()).item())
    # Training has batches of two images.
    assert logged['val/loss'] == pytest.approx(2 * np.mean(losses), rel=1e-3)
