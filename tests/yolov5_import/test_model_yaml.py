"""YOLOv5's model YAML as plain data, or an error with file, line and row."""

import re
import time
from copy import deepcopy
from datetime import date
from pathlib import Path

from mmnextvit.benchmark.memory import read_memory
from mmnextvit.cli import call
from mmnextvit.utils.errors import UserError, find_user_error
from mmnextvit.utils.yaml_reader import MAX_BYTES, read_yaml
from mmnextvit.yolov5_import.model_yaml import read_model

import pytest
import torch
from torch import nn

from tests.helpers.yolov5_detectors import import_content, read_content
from tests.helpers.yolov5_models import document_model, write_yaml, yolov5_model


@pytest.mark.parametrize('argument', [False, True, 'weights.pth'])
@pytest.mark.parametrize('name', ['nextvit_small', 'resnet18'])
def test_a_whole_backbone_takes_the_documents_argument(argument, name, tmp_path):
    (tmp_path / 'weights.pth').touch()
    content = document_model(name, argument)
    model = read_content(tmp_path, content)
    expected = {
        False: None,
        True: dict(type='Pretrained', checkpoint=f'timm://{name}'),
        'weights.pth': dict(type='Pretrained', checkpoint=f'{tmp_path}/weights.pth'),
    }
    assert model.backbone.get('init_cfg') == expected[argument]
    assert (model.pretrained == name) is (argument is True)


@pytest.mark.parametrize(
    'source, strides', [(0, (2, 4, 8, 16, 32)), (1, None), (2, (8, 16, 32))]
)
def test_a_timm_model_emits_from_the_first_map_that_is_read(source, strides, tmp_path):
    content = deepcopy(document_model('resnet18'))  # its rows are shared
    for row in content['head']:
        if row[2] == 'Concat' and 2 in row[0]:
            row[0] = [-1, source]
    model = read_content(tmp_path, content)
    assert model.backbone.get('strides') == strides


def with_output_rows(content: dict) -> dict:
    """A model as v1 and v2 write it: the Detect's convolutions are rows."""
    content = deepcopy(content)
    start = len(content['backbone'])
    if content['backbone'][0][2] != 'Conv':  # a whole backbone has the maps 0 to 4
        start += 4
    *rows, detect = content['head']
    outputs, numbers, written = detect[0], {}, []
    for i, (from_, *rest) in enumerate(rows, start):
        sources = from_ if isinstance(from_, list) else [from_]
        new = [
            (-2 if i - 1 in outputs else -1) if s == -1 else numbers.get(s, s)
            for s in sources
        ]
        numbers[i] = start + len(written)
        written.append([new if isinstance(from_, list) else new[0], *rest])
        if i in outputs:
            written.append([-1, 1, 'nn.Conv2d', ['na * (nc + 5)', 1, 1]])
    written.append([[], 1, 'Detect', ['nc', 'anchors']])
    return content | dict(head=written, anchors=content['anchors'][::-1])


@pytest.mark.parametrize('content', [yolov5_model('n'), document_model('resnet18')])
def test_outputs_of_v1_and_v2_are_part_of_the_detect(content, tmp_path):
    old = read_content(tmp_path, with_output_rows(content))
    new = read_content(tmp_path, content)
    assert old.neck_rows == new.neck_rows and old.out_rows == new.out_rows[::-1]
    assert old.anchors == new.anchors[::-1] and old.in_rows == new.in_rows
    assert len(set(old.lines.values())) == len(old.lines)


def test_a_row_that_reads_an_output_is_named(tmp_path):
    content = with_output_rows(yolov5_model('n'))
    first = next(i for i, row in enumerate(content['head']) if row[2] == 'nn.Conv2d')
    content['head'][first + 1][0] = -1
    with pytest.raises(UserError, match='reads a row of outputs') as error:
        read_content(tmp_path, content)
    assert error.value.row == len(content['backbone']) + first + 1


def change(path: tuple, value: object) -> dict:
    content = yolov5_model('n')
    *keys, last = path
    part = content
    for key in keys:
        part = part[key]
    part[last] = value
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    'path, value, message',
    [
        (('nc',), 0, r':1: nc: the number of classes is 0'),
        (('nc',), '80 or so', r':1: nc: the number of classes is 80 or so'),
        (('depth_multiple',), 'x', r':2: depth_multiple: a multiple .*, not .x.'),
        (('width_multiple',), -1, r':3: width_multiple: a multiple .*, not -1'),
        (('anchors',), [[1, 2], [3]], r':4: anchors: write a count'),
        (('anchors',), [[1, 2]], r'row 24: .*3 rows.*1 levels'),
        (('anchors',), 'x', r':4: anchors: write a count'),
        (('activation',), 'nn.Softmax()', ":35: activation: 'nn.Softmax"),
        (('activation',), '__import__("os").abort()', ':35: activation: .__import__'),
        (('backbone',), [], r':8: backbone: it is not a list'),
        (('backbone', 0), [-1, 1, 'Cnv', [64]], r':9: row 0: .*Cnv.*you mean.*Conv'),
        (('backbone', 2), [-1, 3, 'C3'], r':11: row 2: .*a row is \[from'),
        (('backbone', 2), 'C3', r':11: row 2: .*a row is \[from'),
        (('backbone', 4), [-1, 6, 'Cc3', [256]], r':13: row 4: .*unknown.*you mean'),
        (('backbone', 4), [9, 6, 'C3', [256]], r':13: row 4: .*points ahead'),
        (('backbone', 4), [-1, 10**9, 'C3', [256]], r':13: row 4: .*number is above'),
        (('backbone', 4), [-1, 9999, 'C3', [256]], r':13: row 4: .*1000 repeats'),
        (('backbone', 4), [-1, 1, 'C3', [10**9]], r':13: row 4: .*not within'),
        (('backbone', 4), [-1, 1, 'Conv', ['print(1)']], r':13: row 4: .*never'),
        (('head', 2), [[-1, 4], 1, 'Concat', [1]], r':22: row 12: .*strides differ'),
        (('head', 3), [-1, 3, 'Detect', [80, 3]], r':23: row 13: .*: Detect must'),
        (('head', 14), [[17, 20, 30], 1, 'Detect', ['nc', 'anchors']],
         r':34: row 24: .*it reads 30, and a head reads rows before it: 0 to 23'),
        (('head', 14), [-1, 1, 'Conv', [64]], r':34: row 24: .*last row is Detect'),
        (('backbone', 0), [-1, 1, ['Conv'], [64]], r':9: row 0: .*named by a text'),
        (('backbone', 0), [-1, 1, 'Conv', [date(2020, 1, 1)]], r':9: row 0: .*numbers'),
        (('backbone', 0), [-1, 1, 'Conv', [float('inf')]], r':9: row 0: .*numbers'),
        (('activation',), 5, ':35: activation: 5: '),
        (('width_multiple',), True, r':3: width_multiple: a multiple .*, not True'),
        (('head', 14), [[17, 20, 23], 1, 'Segment', ['nc', 'anchors', True, 256]],
         r':34: row 24: .*not a count of mask'),
        (('backbone', 0), [-1, 2, 'nextvit_small', [False]], r':9: row 0: .*\[False\]'),
        (('backbone', 0), [-1, 1, 'nextvit_small', [1, 2]], r'row 0: .*False, True'),
        (('backbone', 0), [-1, 1, 'resnet18', ['gone.pt']], r'row 0: .*gone.pt does'),
        (('backbone', 0), [-1, 1, 'resnet17', [False]], r':9: row 0: .*mean.*resnet1'),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_row(path, value, message, tmp_path):
    """And leaves nothing behind."""
    file = write_yaml(tmp_path / 'model.yaml', change(path, value))
    with pytest.raises(UserError, match=f'model.yaml.*{message}') as raised:
        call('import_yolov5', file, '-o', tmp_path / 'x.py')
    error = find_user_error(raised.value)
    place, row = re.search(':([0-9]+)', message), re.search('row ([0-9]+)', message)
    assert error.file == file
    assert error.line == int(place[1]) if place else error.line > 0
    assert error.row == (int(row[1]) if row else None)
    assert [p.name for p in tmp_path.iterdir()] == ['model.yaml']


def test_a_map_that_the_backbone_lacks_is_an_error_of_the_head(tmp_path):
    """It is found when the model is built, long after the YAML has been read."""
    content = document_model()
    content['head'][-1][0] = [0, 16, 19]
    file = write_yaml(tmp_path / 'm.yaml', content)
    with pytest.raises(UserError, match='output rows .0. do not exist') as raised:
        call('import_yolov5', file, '-o', tmp_path / 'x.py')
    assert raised.value.file == file
    assert 'Detect' in file.read_text().splitlines()[raised.value.line - 1]


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
        ('nc: 2020-02-31', 'not YAML: day'),
        ('nc: 80', 'has no anchors'),
    ],
)
def test_yaml_that_is_refused(text, message, tmp_path):
    (tmp_path / 'm.yaml').write_text(text)
    with pytest.raises(UserError, match=f'm.yaml.*{message}'):
        read_model(read_yaml(tmp_path / 'm.yaml'))


@pytest.mark.slow
def test_malice_costs_little(tmp_path):
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
    start = time.process_time()
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here
    before = read_memory('VmRSS')
    for text in texts:
        (tmp_path / 'x.yaml').write_text(text)
        with pytest.raises(UserError, match='x.yaml'):
            call('import_yolov5', tmp_path / 'x.yaml', '-o', tmp_path / 'x.py')
    assert time.process_time() - start < 60  # of this process, however busy others are
    assert read_memory('VmHWM') - before < 500  # MB


def with_backbone(name: str, args: list) -> dict:
    """The document's model with another row 0."""
    content = deepcopy(document_model('resnet18'))
    content['backbone'][0] = [-1, 1, name, args]
    return content


@pytest.mark.parametrize(
    'name, args',
    [('mmdet.ResNet', [False, {'depth': 18}]), ('ResNet', [{'depth': 18}])],
)
def test_a_backbone_of_mmdetection_takes_arguments_by_name(name, args, tmp_path):
    _, cfg, model = import_content(tmp_path, with_backbone(name, args))
    assert cfg.model.backbone == dict(type='mmdet.ResNet', depth=18)
    assert model.neck.in_rows == (1, 2, 3, 4)
    maps = [tuple(model.neck.rows.maps[i]) for i in range(1, 5)]
    assert maps == [(64, 4), (128, 8), (256, 16), (512, 32)]
    assert model.backbone.training and model.backbone.layer4.training
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.num_batches_tracked for norm in norms)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, arguments, channels',
    [
        ('PyramidVisionTransformerV2', dict(embed_dims=32, num_layers=[1, 1, 1, 1]),
         [32, 64, 160, 256]),
        ('mmdet.SwinTransformer', dict(embed_dims=24, depths=[1, 1, 1, 1]),
         [24, 48, 96, 192]),
        ('mmdet.NextViT', dict(arch='small', out_indices=[1, 2, 3]), [256, 512, 1024]),
    ],
)  # fmt: skip
def test_any_backbone_of_mmdetection_is_tried_for_its_maps(
    name, arguments, channels, tmp_path
):
    content = with_backbone(name, [False, arguments])
    _, _, model = import_content(tmp_path, content)
    maps = [tuple(model.neck.rows.maps[i]) for i in range(5 - len(channels), 5)]
    assert maps == [*zip(channels, [4, 8, 16, 32][-len(channels) :])]
    assert len(model.extract_feat(torch.zeros(1, 3, 64, 64))) == 3


@pytest.mark.parametrize('weights', ['weights.pth', 'torchvision://resnet18'])
def test_weights_of_a_backbone_of_mmdetection(weights, tmp_path):
    (tmp_path / 'weights.pth').touch()
    content = with_backbone('mmdet.ResNet', [weights, {'depth': 18}])
    model = read_content(tmp_path, content)
    file = weights if '://' in weights else f'{tmp_path}/{weights}'
    assert model.backbone['init_cfg'] == dict(type='Pretrained', checkpoint=file)


@pytest.mark.parametrize(
    'name, args, message',
    [
        ('mmdet.ResNet', [False], 'cannot be built: .*depth'),
        ('mmdet.ResNet', [{'depth': 19}], 'cannot be built: .*invalid depth 19'),
        ('mmdet.ResNet', [{'deep': 18}], "cannot be built: .*'deep'"),
        ('mmdet.ResNet', [18], 'False, True .pretrained. or a weights file.*by name'),
        ('mmdet.ResNet', [True, {'depth': 18}], 'no weights are known of mmdet.ResNet'),
        ('mmdet.ResNet', [{'init_cfg': 'x'}], 'init_cfg is no argument here'),
        ('ResNet', [{'depth': 18, 'base_channels': 30000}], 'more than 1,000,000,'),
        ('mmdet.ResNet', [{'depth': 18, 'strides': [1, 2, 10**9, 2]}], 'not within'),
        ('mmdet.FPN', [{'in_channels': [8], 'out_channels': 8, 'num_outs': 1}],
         'cannot be built: '),
    ],
)  # fmt: skip
def test_a_backbone_that_cannot_be_built_is_named(name, args, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read_content(tmp_path, with_backbone(name, args))
    assert error.value.row == 0 and error.value.line


def test_all_unknown_modules_are_named_with_their_rows_and_lines(tmp_path):
    content = deepcopy(yolov5_model('n'))
    content['backbone'][2][2] = 'GSConv'
    content['backbone'][4][2] = 'C3STR'
    content['head'][3][2] = 'GSConv'
    content['head'][-1][2] = 'ASFF_Detect'
    with pytest.raises(UserError) as error:
        read_content(tmp_path, content)
    lines = (tmp_path / 'model.yaml').read_text().splitlines()
    first, second = [i for i, line in enumerate(lines, 1) if 'GSConv' in line]
    text = str(error.value)
    assert f'GSConv (rows 2 in line {first}, 13 in line {second}); ' in text
    assert 'C3STR (row 4 in line' in text
    assert re.search('ASFF_Detect .row 24 in line [0-9]+.: a head of a fork', text)
    assert 'docs/custom_modules.md' in text and 'did you mean' not in text
    assert (error.value.row, error.value.line) == (2, first)


def test_an_unknown_backbone_is_told_what_there_is(tmp_path):
    with pytest.raises(UserError, match='unknown module swin_tiny .*MMDetection'):
        read_content(tmp_path, document_model('swin_tiny'))
