"""From YOLOv5's files to a config that trains: whole, or with file, line and row."""

import json
import re
import shutil
import time
import tracemalloc
from datetime import date
from pathlib import Path

from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.utils.yaml_reader import MAX_BYTES, read_yaml
from mmnextvit.yolov5_import.model_yaml import config_text, read_hyp, read_model

import pytest
import torch
import yaml
from mmengine.config import Config
from torch import nn

from tests.helpers.tiny_run import load_tool, run_tool
from tests.helpers.yolov5_models import (
    PARAMETERS,
    document_model,
    write_yaml,
    yolov5_model,
)
from tests.helpers.yolov5_pickle import write_yolov5_checkpoint

DOCUMENT = 32_708_477


@pytest.fixture(scope='module')
def tool():
    return load_tool('import_yolov5')


def imported(tool, folder, content: dict, **options):
    """Text, config and detector of a model YAML."""
    model = read_model(read_yaml(write_yaml(folder / 'model.yaml', content)))
    text = config_text(model, ['model.yaml'], **options)
    return text, *tool.built(text, folder)


@pytest.mark.parametrize('name', [*PARAMETERS, 'document'])
def test_parameters_are_the_published_ones(name, tool, tmp_path):
    content, count = {**PARAMETERS, 'document': (document_model(), DOCUMENT)}[name]
    text, _, detector = imported(tool, tmp_path, content)
    assert sum(p.numel() for p in detector.parameters()) == count
    assert len(text.splitlines()) <= 80
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_the_document_is_our_config(tool, tmp_path, load_config):
    _, cfg, _ = imported(tool, tmp_path, document_model())
    ours = load_config('yolov5_nextvit_s')
    rows = [list(row) for row in ours.model.neck.rows]
    assert [list(row) for row in cfg.model.neck.rows] == rows
    assert cfg.model.neck.out_rows == ours.model.neck.out_rows
    for part in ('loss_cls', 'loss_bbox', 'loss_obj', 'obj_level_weights'):
        assert cfg.model.bbox_head[part] == ours.model.bbox_head[part]
    assert cfg.train_pipeline == ours.train_pipeline
    assert cfg.model.data_preprocessor == ours.model.data_preprocessor
    priors = ours.model.bbox_head.prior_generator.base_sizes
    assert cfg.model.bbox_head.prior_generator.base_sizes == priors


@pytest.mark.parametrize('levels', [1, 2, 4, 5])
def test_heads_on_one_to_five_levels(levels, tool, tmp_path):
    """P2 to P6 and P3 to P7, with YOLOv5's weights of the levels."""
    widths = (32, 48, 64, 80, 96, 112)
    content = yolov5_model('n', (128, 256, 512, 768, 1024))
    rows = [[-1, 1, 'Conv', [w * 4, 3, 2]] for w in widths]
    content['backbone'] = [[-1, 1, 'Conv', [64, 3, 2]], *rows]
    outs = list(range(7 - levels, 7))
    content['head'] = [[outs, 1, 'Detect', ['nc', 'anchors']]]
    content['anchors'] = [[10 * i, 12 * i, 14 * i, 9 * i] for i in range(1, levels + 1)]
    _, cfg, detector = imported(tool, tmp_path, content)
    strides = [2 ** (i + 1) for i in outs]
    assert list(detector.neck.strides) == strides
    head = detector.bbox_head
    assert head.obj_level_weights == [4.0, 1.0, 0.25, 0.06, 0.02][:levels]
    assert head.prior_generator.strides == [(s, s) for s in strides]
    assert head.head_module.num_base_priors == 2
    targets = torch.tensor([[0, 1, 8.0, 8.0, 60.0, 70.0]])
    samples = dict(
        bboxes_labels=targets, img_metas=[dict(batch_input_shape=(128, 128))]
    )
    losses = detector.train().loss(torch.rand(2, 3, 128, 128), samples)
    sum(losses.values()).sum().backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_segment_head_learns_and_predicts(tool, tmp_path):
    content = yolov5_model('n', head=('Segment', ['nc', 'anchors', 32, 256]))
    _, cfg, detector = imported(tool, tmp_path, content)
    assert cfg.model.bbox_head.type == 'YOLOv5InsHead'
    assert cfg.model.bbox_head.loss_mask_weight == 0.05
    targets = torch.tensor([[0, 1, 8.0, 8.0, 60.0, 70.0], [1, 2, 5.0, 9.0, 90.0, 99.0]])
    masks = torch.zeros(2, 32, 32)
    masks[0, 2:17, 2:15] = masks[1, 2:24, 1:22] = 1
    shape = dict(batch_input_shape=(128, 128))
    samples = dict(bboxes_labels=targets, masks=masks, img_metas=[shape, shape])
    losses = detector.train().loss(torch.rand(2, 3, 128, 128), samples)
    assert set(losses) >= {'loss_cls', 'loss_bbox', 'loss_obj', 'loss_mask'}
    sum(losses.values()).sum().backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_placeholder_anchors_build_and_refuse_to_train(tool, tmp_path):
    content = yolov5_model('n')
    content['anchors'] = 4
    _, cfg, detector = imported(tool, tmp_path, content)
    assert cfg.model.bbox_head.prior_generator.base_sizes == 4
    assert detector.bbox_head.head_module.num_base_priors == 4
    assert len(detector.bbox_head.prior_generator.base_sizes) == 3
    with pytest.raises(ValueError, match='placeholders.*compute_anchors'):
        detector.loss(torch.rand(1, 3, 64, 64), {})


@pytest.mark.parametrize('argument', [False, True, 'weights.pth'])
@pytest.mark.parametrize('name', ['nextvit_small', 'resnet18'])
def test_a_whole_backbone_takes_the_documents_argument(argument, name, tmp_path):
    (tmp_path / 'weights.pth').touch()
    content = document_model(name, argument)
    model = read_model(read_yaml(write_yaml(tmp_path / 'm.yaml', content)))
    expected = {
        False: None,
        True: dict(type='Pretrained', checkpoint=f'timm://{name}'),
        'weights.pth': dict(type='Pretrained', checkpoint=f'{tmp_path}/weights.pth'),
    }
    assert model.backbone.get('init_cfg') == expected[argument]
    assert (model.pretrained == name) is (argument is True)


def test_pretrained_weights_bring_their_mean_and_std(tmp_path):
    write_yaml(tmp_path / 'm.yaml', document_model('resnet18', True))
    run_tool('import_yolov5.py', 'm.yaml', '-o', 'x.py', cwd=tmp_path)
    model = Config.fromfile(tmp_path / 'x.py').model
    assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert model.backbone.init_cfg.checkpoint == 'timm://resnet18'


# ----------------------------------------------------------------------- mistakes


def changed(path: tuple, value: object) -> dict:
    content = yolov5_model('n')
    *keys, last = path
    part = content
    for key in keys:
        part = part[key]
    part[last] = value
    return content


@pytest.mark.parametrize(
    'path, value, message',
    [
        (('nc',), 0, r':1: the number of classes is 0'),
        (('nc',), '80 or so', r':1: the number of classes is 80 or so'),
        (('depth_multiple',), 'x', r':2: depth_multiple is .x.'),
        (('width_multiple',), -1, r':3: width_multiple is -1'),
        (('anchors',), [[1, 2], [3]], r':4: anchors are a count'),
        (('anchors',), [[1, 2]], r'row 24 .*3 rows.*1 levels'),
        (('anchors',), 'x', r':4: anchors are a count'),
        (('activation',), 'nn.Softmax()', "activation 'nn.Softmax"),
        (('activation',), '__import__("os").abort()', 'activation'),
        (('backbone',), [], r'backbone is no list'),
        (('backbone', 0), [-1, 1, 'Cnv', [64]], r":9: row 0 .*Cnv.*did you mean.*Conv"),
        (('backbone', 2), [-1, 3, 'C3'], r':11: row 2 .*a row is \[from'),
        (('backbone', 2), 'C3', r':11: row 2 .*a row is \[from'),
        (('backbone', 4), [-1, 6, 'Cc3', [256]], r':13: row 4 .*unknown.*did you mean'),
        (('backbone', 4), [9, 6, 'C3', [256]], r':13: row 4 .*points ahead'),
        (('backbone', 4), [-1, 10**9, 'C3', [256]], r':13: row 4 .*number is above'),
        (('backbone', 4), [-1, 9999, 'C3', [256]], r':13: row 4 .*1000 repeats'),
        (('backbone', 4), [-1, 1, 'C3', [10**9]], r':13: row 4 .*not within'),
        (('backbone', 4), [-1, 1, 'Conv', ['print(1)']], r':13: row 4 .*never'),
        (('head', 2), [[-1, 4], 1, 'Concat', [1]], r':22: row 12 .*strides differ'),
        (('head', 3), [-1, 3, 'Detect', [80, 3]], r':23: row 13: Detect must'),
        (('head', 14), [[17, 20, 30], 1, 'Detect', ['nc', 'anchors']],
         r':34: row 24 .*before it'),
        (('head', 14), [-1, 1, 'Conv', [64]], r':34: row 24 .*last row is Detect'),
        (('backbone', 0), [-1, 1, ['Conv'], [64]], r':9: row 0 .*named by a text'),
        (('backbone', 0), [-1, 1, 'Conv', [date(2020, 1, 1)]], r':9: row 0 .*numbers'),
        (('backbone', 0), [-1, 1, 'Conv', [float('inf')]], r':9: row 0 .*numbers'),
        (('activation',), 5, 'activation is 5'),
        (('width_multiple',), True, r':3: width_multiple is True'),
        (('head', 14), [[17, 20, 23], 1, 'Segment', ['nc', 'anchors', True, 256]],
         r':34: row 24 .*no count of mask'),
        (('backbone', 0), [-1, 2, 'nextvit_small', [False]], r':9: row 0 .*\[False\]'),
        (('backbone', 0), [-1, 1, 'nextvit_small', [1, 2]], r'row 0 .*False, True'),
        (('backbone', 0), [-1, 1, 'resnet18', ['gone.pt']], r'row 0 .*gone.pt does'),
        (('backbone', 0), [-1, 1, 'resnet17', [False]], r':9: row 0 .*mean.*resnet1'),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_row(path, value, message, tool, tmp_path):
    """And leaves nothing behind."""
    file = write_yaml(tmp_path / 'model.yaml', changed(path, value))
    with pytest.raises(ValueError, match=f'model.yaml.*{message}'):
        tool.main([str(file), '-o', str(tmp_path / 'x.py')])
    assert [p.name for p in tmp_path.iterdir()] == ['model.yaml']


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'no keys and values'),
        ('- 1', 'no keys and values'),
        ('nc: 80\nnc: 3', ':2: nc stands here a second time'),
        ('nc: [', ':1: not YAML'),
        ('nc: !!python/object/apply:os.abort []', ':1: not YAML.*python/object'),
        ('a: &a [1]\nb: [*a, *a]', ':2: aliases'),
        ('[' * 50_000, ':1: nested deeper'),
        ('x' * (MAX_BYTES + 1), 'KiB'),
        ('nc: 80', 'has no anchors'),
    ],
)
def test_yaml_that_is_refused(text, message, tmp_path):
    (tmp_path / 'm.yaml').write_text(text)
    with pytest.raises(ValueError, match=f'm.yaml.*{message}'):
        read_model(read_yaml(tmp_path / 'm.yaml'))


def test_malice_costs_little(tool, tmp_path):
    """Nested aliases, huge repeats, widths and lists: seconds, and no gigabytes."""
    bomb = ['a0: &a0 [x, x]']
    bomb += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 30)]
    texts = ['\n'.join(bomb)]
    wide = [[-1, 1, 'Conv', [32768, 3, 1]] for _ in range(200)]
    many = [[-1, 900, 'C3', [32768]]]
    long = [[[-1] * 40_000, 1, 'Concat', [1]]]
    for rows in (wide, many, long):
        content = dict(yolov5_model('l'), backbone=rows)
        texts.append(write_yaml(tmp_path / 'x.yaml', content).read_text())
    tracemalloc.start()
    start = time.monotonic()
    for text in texts:
        (tmp_path / 'x.yaml').write_text(text)
        with pytest.raises(ValueError, match='x.yaml'):
            tool.main([str(tmp_path / 'x.yaml'), '-o', str(tmp_path / 'x.py')])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 60
    assert peak < 500e6


# ------------------------------------------------------------------ weights and hyp


def yolov5_names(state: dict, head: int) -> dict:
    """YOLOv5's names of a detector whose rows begin at the image."""
    names = {}
    for name, value in state.items():
        new = re.sub(r'^(backbone|neck)\.rows\.', 'model.', name)
        new = new.replace('bbox_head.head_module.convs_pred', f'model.{head}.m')
        new = re.sub(
            r'bbox_head\.head_module\.proto_pred\.conv', f'model.{head}.proto.cv', new
        )
        names[new] = value
    return names


def rows_of(content: dict) -> list[str]:
    return [row[2] for row in (*content['backbone'], *content['head'])]


@pytest.mark.parametrize('head', ['Detect', 'Segment'])
def test_weights_are_converted_beside_the_config(head, tool, tmp_path, lively, capsys):
    """Anchors, classes and every tensor of a .pt; the same maps come out."""
    args = ['nc', 'anchors', 32, 256][: 4 if head == 'Segment' else 2]
    content = yolov5_model('n', head=(head, args), nc=3)
    _, _, trained = imported(tool, tmp_path, content)
    lively(trained).half().float()  # what the file can hold
    anchors = [[(3, 5), (7, 9), (11, 10)], [(20, 21), (30, 31), (40, 41)],
               [(50, 51), (60, 61), (70, 71)]]  # fmt: skip
    kinds = ['Detect' if k == 'Segment' else k for k in rows_of(content)]
    write_yolov5_checkpoint(
        tmp_path / 'best.pt', yolov5_names(trained.state_dict(), 24), kinds,
        anchors=anchors, names=['cat', 'dog', 'cow'],
    )  # fmt: skip
    file = str(tmp_path / 'model.yaml')
    out = tmp_path / 'new' / 'mine.py'
    tool.main([file, '-o', str(out), '--weights', str(tmp_path / 'best.pt')])
    printed = capsys.readouterr().out
    total = len([n for n in trained.state_dict() if not n.endswith('tracked')])
    assert f"{total} of the model's {total} tensors fit" in printed
    assert len(out.read_text().splitlines()) <= 80

    cfg = Config.fromfile(out)
    saved = torch.load(cfg.load_from, weights_only=True)
    assert saved['meta']['dataset_meta']['classes'] == ['cat', 'dog', 'cow']
    _, detector = tool.built(out.read_text(), out.parent)
    detector.load_state_dict(saved['state_dict'])
    trained.eval(), detector.eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(trained._forward(x), detector._forward(x)):
            pairs = [(a, b)] if isinstance(a, torch.Tensor) else zip(a, b)
            assert all(torch.equal(m, n) for m, n in pairs)
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [[tuple(pair) for pair in level] for level in sizes] == anchors
    with pytest.raises(ValueError, match='mine.py exists'):
        tool.main([file, '-o', str(out)])


def test_weights_of_another_model_are_refused(tool, tmp_path):
    content = yolov5_model('n', nc=3)
    _, _, trained = imported(tool, tmp_path, content)
    state = yolov5_names(trained.state_dict(), 24)
    write_yolov5_checkpoint(tmp_path / 'best.pt', state, rows_of(content))
    file = write_yaml(tmp_path / 'model.yaml', yolov5_model('s', nc=3))
    with pytest.raises(ValueError, match='(?s)best.pt: the weights .*other shape'):
        tool.main(
            [str(file), '-o', str(tmp_path / 'x.py'), '--weights',
             str(tmp_path / 'best.pt')]
        )  # fmt: skip
    assert not list(tmp_path.glob('x.*'))


def test_hyperparameters(tool, tmp_path, capsys):
    content = yolov5_model('s', nc=20)
    content['spare'] = 7
    hyp = dict(
        lr0=0.02, lrf=0.1, momentum=0.9, weight_decay=0.001, warmup_epochs=2.0,
        warmup_momentum=0.7, warmup_bias_lr=0.05, box=0.1, cls=0.25, obj=0.5,
        anchor_t=3.0, hsv_h=0.01, hsv_s=0.2, hsv_v=0.3, degrees=5.0, translate=0.2,
        scale=0.9, shear=1.0, fliplr=0.25, flipud=0.125, mosaic=1.0, mixup=0.1,
        cls_pw=1.0, obj_pw=1.5, iou_t=0.2, fl_gamma=0.0, perspective=0.001,
        copy_paste=0.0, anchors=0, unheard_of=3,
    )  # fmt: skip
    write_yaml(tmp_path / 'hyp.yaml', hyp)
    file = write_yaml(tmp_path / 'm.yaml', content)
    out = tmp_path / 'x.py'
    tool.main(
        [str(file), '-o', str(out), '--hyp', str(tmp_path / 'hyp.yaml'), '--imgsz',
         '320', '--epochs', '40', '--batch-size', '4']
    )  # fmt: skip
    printed = capsys.readouterr().out
    lacking = [line.strip() for line in printed.splitlines()[-6:]]
    at = {key: i for i, key in enumerate(hyp, start=1)}
    spare = file.read_text().splitlines().index('spare: 7') + 1
    assert lacking == [
        '5 entries have no counterpart:',
        f'{tmp_path}/m.yaml:{spare} spare: 7',
        *(
            f'{tmp_path}/hyp.yaml:{at[key]} {key}: {hyp[key]}{more}'
            for key, more in (
                ('obj_pw', ''),
                ('iou_t', ' (YOLOv5 does not use it either)'),
                ('perspective', ''),
                ('unheard_of', ''),
            )
        ),
    ]
    text = out.read_text()
    assert all(line in text for line in lacking[1:])
    assert len(text.splitlines()) <= 80

    cfg = Config.fromfile(out)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        0.02, 0.9, 0.001,
    )  # fmt: skip
    hook = cfg.default_hooks.param_scheduler
    assert (hook.lr_factor, hook.warmup_epochs, hook.max_epochs) == (0.1, 2.0, 40)
    assert (hook.warmup_momentum, hook.warmup_bias_lr) == (0.7, 0.05)
    head = cfg.model.bbox_head
    weights = [head[f'loss_{name}'].loss_weight for name in ('bbox', 'cls', 'obj')]
    assert weights == pytest.approx([0.1, 0.25 * 20 / 80, 0.5 * 0.25])
    assert head.prior_match_thr == 3.0
    steps = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert steps == [
        'LoadImageFromFile', 'LoadAnnotations', 'Mosaic', 'YOLOv5RandomAffine',
        'YOLOv5MixUp', 'YOLOv5HSVRandomAug', 'mmdet.RandomFlip', 'mmdet.RandomFlip',
        'mmdet.PackDetInputs',
    ]  # fmt: skip
    by_name = dict(zip(steps, cfg.train_dataloader.dataset.pipeline))
    affine = by_name['YOLOv5RandomAffine']
    assert affine.scaling_ratio_range == (0.1, 1.9) and affine.border == (-160, -160)
    assert (affine.max_rotate_degree, affine.max_shear_degree) == (5.0, 1.0)
    assert affine.max_translate_ratio == 0.2
    hsv = by_name['YOLOv5HSVRandomAug']
    assert (hsv.hue_delta, hsv.saturation_delta, hsv.value_delta) == (0.01, 0.2, 0.3)
    assert by_name['YOLOv5MixUp'].prob == 0.1
    flips = [t for t in cfg.train_pipeline if t.type == 'mmdet.RandomFlip']
    assert [f.prob for f in flips] == [0.25, 0.125]
    assert flips[1].direction == 'vertical'
    tool.built(text, tmp_path)


@pytest.mark.parametrize('mosaic, notes', [(0, 1), (0.5, 1), (1, 0)])
def test_without_mosaic(mosaic, notes, tmp_path):
    hyp, lacking = read_hyp(
        read_yaml(write_yaml(tmp_path / 'h.yaml', dict(mosaic=mosaic, mixup=0.5)))
    )
    assert len(lacking) == notes
    model = read_model(read_yaml(write_yaml(tmp_path / 'm.yaml', yolov5_model('n'))))
    (tmp_path / 'x.py').write_text(config_text(model, [], hyp=hyp))
    steps = [t.type for t in Config.fromfile(tmp_path / 'x.py').train_pipeline]
    assert ('Mosaic' in steps) == (mosaic > 0)
    assert ('LetterResize' in steps) == (mosaic == 0)
    assert ('YOLOv5MixUp' in steps) == (mosaic > 0)


@pytest.mark.parametrize(
    'key, value',
    [('box', 'x'), ('box', True), ('box', -1), ('box', float('nan')), ('box', 1e9),
     ('scale', 1.0), ('translate', 5), ('fliplr', 2), ('anchor_t', 0),
     ('anchors', 500)],
)  # fmt: skip
def test_bad_hyperparameters(key, value, tmp_path):
    file = write_yaml(tmp_path / 'hyp.yaml', {'lr0': '1e-2', key: value})
    with pytest.raises(ValueError, match=rf'hyp.yaml:2 {key}: .*(no number|of range)'):
        read_hyp(read_yaml(file))


def test_no_text_of_a_file_becomes_code(tool, yolo_data, tmp_path, capsys):
    """A newline would end the comment that a note stands in."""
    code = f'a\nopen({str(tmp_path / "run")!r}, "w")\n#'
    content = yolov5_model('n', nc=3)
    content[code] = code
    file = tmp_path / 'm.yaml'
    file.write_text(json.dumps(content))  # which is YAML
    (tmp_path / 'hyp.yaml').write_text(json.dumps({code: 1}))
    data = tmp_path / 'data.yaml'
    data.write_text(
        json.dumps({**yaml.safe_load(yolo_data.read_text()), code: 1,
                    'path': str(yolo_data.parent)})
    )  # fmt: skip
    out = tmp_path / 'x.py'
    tool.main(
        [str(file), '-o', str(out), '--hyp', str(tmp_path / 'hyp.yaml'), '--data',
         str(data)]
    )  # fmt: skip
    assert out.read_text().count('# No counterpart: ') == 4  # download too
    Config.fromfile(out)
    assert not (tmp_path / 'run').exists()
    assert len(capsys.readouterr().out.strip().splitlines()[-5:]) == 5


def test_levels_in_any_order_have_their_anchors(tool, tmp_path):
    """YOLOv5 turns the anchors' order round too."""
    content = yolov5_model('n')
    content['head'][-1][0] = [23, 20, 17]
    out = tmp_path / 'x.py'
    tool.main([str(write_yaml(tmp_path / 'm.yaml', content)), '-o', str(out)])
    cfg = Config.fromfile(out)
    assert cfg.model.neck.out_rows == (23, 20, 17)
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [tuple(level[0]) for level in sizes] == [(116, 90), (30, 61), (10, 13)]


@pytest.mark.parametrize(
    'edit, message',
    [
        (dict(train='nowhere'), r'data.yaml:1: train: nowhere is not found'),
        (dict(val=None), r"no 'val'"),
        (dict(nc=4), r'data.yaml:3: nc is 4'),
    ],
)
def test_data_are_looked_for(edit, message, tool, yolo_data, tmp_path):
    content = {**yaml.safe_load(yolo_data.read_text()), **edit}
    data = yolo_data.parent / 'other' / 'data.yaml'
    data.parent.mkdir(exist_ok=True)
    write_yaml(data, {**content, 'path': '..'})
    file = write_yaml(tmp_path / 'm.yaml', yolov5_model('n', nc=3))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tool.main([str(file), '-o', f'{tmp_path}/new/x.py', '--data', str(data)])
    assert not (tmp_path / 'new').exists()
    with pytest.raises(ValueError, match='its folder is a file'):
        tool.main([str(file), '-o', f'{file}/x.py'])


def test_a_large_model_with_everything_fits_80_lines(tool, yolo_data, tmp_path, capsys):
    """And the size is rounded up to the largest stride, as in YOLOv5."""
    content = yolov5_model('s', (128, 256, 512, 768, 1024), nc=3)
    content.update({f'spare{i}': i for i in range(40)})
    file = write_yaml(tmp_path / 'm.yaml', content)
    hyp = dict(fliplr=0.5, flipud=0.5, mosaic=0, mixup=0.5, hsv_h=0.1, degrees=3)
    write_yaml(tmp_path / 'hyp.yaml', hyp)
    out = tmp_path / 'x.py'
    tool.main(
        [str(file), '-o', str(out), '--hyp', str(tmp_path / 'hyp.yaml'), '--imgsz',
         '600', '--data', str(yolo_data)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert 'no multiple of 64: 640 is taken' in printed
    assert all(f' spare{i}: {i}' in printed for i in range(40))
    assert len(out.read_text().splitlines()) <= 80
    cfg = Config.fromfile(out)
    assert cfg.img_scale == (640, 640)
    assert cfg.val_dataloader.dataset.batch_shapes_cfg.size_divisor == 64
    assert cfg.model.bbox_head.obj_level_weights == [4.0, 1.0, 0.25, 0.06]
    rows = [list(row) for row in (*content['backbone'], *content['head'][:-1])]
    for row in rows:
        row[3] = [None if x == 'None' else x for x in row[3]]
    written = [*cfg.model.backbone.rows, *cfg.model.neck.rows]
    assert [list(row) for row in written] == rows


# ------------------------------------------------------------------------- the run


@pytest.fixture(scope='module')
def yolo_data(tmp_path_factory):
    """Twelve drawn images in YOLO's txt format."""
    folder = tmp_path_factory.mktemp('yolo')
    make_demo_data(folder / 'coco', train=8, val=4, size=64, seed=0)
    for split in ('train', 'val'):
        coco = json.loads((folder / f'coco/annotations/{split}.json').read_text())
        (folder / 'images').mkdir(exist_ok=True)
        (folder / 'labels' / split).mkdir(parents=True)
        shutil.copytree(folder / 'coco' / split, folder / 'images' / split)
        for image in coco['images']:
            lines = []
            for box in coco['annotations']:
                if box['image_id'] == image['id']:
                    x, y, w, h = box['bbox']
                    line = [box['category_id'] - 1, x + w / 2, y + h / 2, w, h]
                    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                    line = [line[0], *corners]  # masks need polygons
                    lines.append(' '.join(str(v / 64) for v in line[1:]))
                    lines[-1] = f'{line[0]} {lines[-1]}'
            name = Path(image['file_name']).with_suffix('.txt')
            (folder / 'labels' / split / name).write_text('\n'.join(lines))
    (folder / 'data.yaml').write_text(
        'train: images/train\nval: images/val\nnc: 3\n'
        'names: [circle, square, triangle]\ndownload: rm -rf /\n'
    )
    return folder / 'data.yaml'


@pytest.mark.parametrize('head', ['Detect', 'Segment'])
def test_the_config_trains_resumes_and_predicts(head, yolo_data, tool, tmp_path):
    """Anchors come from the data or, with weights of other classes, from these."""
    args = ['nc', 'anchors', 32, 256][: 4 if head == 'Segment' else 2]
    content = yolov5_model('n', head=(head, args), nc=5)
    content['width_multiple'] = 0.125
    content['anchors'] = 2
    write_yaml(tmp_path / 'model.yaml', content)
    weights = []
    if head == 'Detect':
        _, _, trained = imported(tool, tmp_path, content)
        anchors = [[(5 * i, 6 * i), (7 * i, 8 * i)] for i in (1, 2, 3)]
        write_yolov5_checkpoint(
            tmp_path / 'best.pt', yolov5_names(trained.state_dict(), 24),
            rows_of(content), anchors=anchors,
        )  # fmt: skip
        weights = ['--weights', 'best.pt']
    printed = run_tool(
        'import_yolov5.py', 'model.yaml', '--data', yolo_data, '--imgsz', 64,
        '--epochs', 2, '--batch-size', 4, '-o', 'mine.py', *weights, cwd=tmp_path,
    )  # fmt: skip
    assert f'{yolo_data}:5 download' in printed
    assert ('The head starts anew' in printed) == bool(weights)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [len(level) for level in sizes] == [2, 2, 2]
    assert max(side for level in sizes for pair in level for side in pair) <= 64
    small = ['--cfg-options', 'train_dataloader.num_workers=0',
             'train_dataloader.persistent_workers=False',
             'val_dataloader.num_workers=0',
             'val_dataloader.persistent_workers=False', 'train_cfg.val_interval=1',
             'default_hooks.checkpoint.interval=1']  # fmt: skip
    first = [*small, 'train_cfg.max_epochs=1']
    started = run_tool('train.py', 'mine.py', *first, cwd=tmp_path)
    assert ('mine.pth: mmnextvit, sha256' in started) == bool(weights)
    resumed = run_tool('train.py', 'mine.py', '--resume', *small, cwd=tmp_path)
    assert 'resumed epoch: 1' in resumed
    assert 'coco/bbox_mAP' in resumed
    assert ('coco/segm_mAP' in resumed) == (head == 'Segment')
    weights = tmp_path / 'work_dirs' / 'mine' / 'epoch_2.pth'
    run_tool(
        'predict.py', 'mine.py', weights, yolo_data.parent / 'images' / 'val',
        '--out-dir', 'found', '--score-thr', '0.001', '--feature-maps', cwd=tmp_path,
    )  # fmt: skip
    found = json.loads((tmp_path / 'found' / 'predictions.json').read_text())
    assert found['classes'] == ['circle', 'square', 'triangle']
    assert len(found['predictions']) == 4
    maps = tmp_path / 'found' / found['predictions'][0]['feature_maps']
    assert len(list(maps.glob('[0-2][0-9]_*.png'))) == 24  # an image a row
