"""The rows against a second interpreter; bad rows are named with number and text."""

import copy

from mmnextvit.models.yolov5_graph import RowGraph
from mmnextvit.models.yolov5_row_rules import parse_activation
from mmnextvit.models.yolov5_rows import FeatureMap, RowError
from mmnextvit.models.yolov5_yaml import YOLOv5YAMLBackbone, YOLOv5YAMLNeck
from mmnextvit.utils.errors import UserError, find_user_error

import pytest
import torch
from mmengine.logging import MMLogger
from mmyolo.registry import MODELS
from torch import nn

from tests.helpers.yolov5_neck import CHANNELS, YAML, yolov5_state
from tests.helpers.yolov5_reference import Rows


def neck(
    rows=YAML, out_rows=(13, 16, 19), in_channels=CHANNELS, **options
) -> YOLOv5YAMLNeck:
    options = {'depth_multiple': 0.33, 'width_multiple': 0.25, **options}
    return YOLOv5YAMLNeck(rows, out_rows, in_channels, **options)


@pytest.mark.parametrize(
    'depth, width', [(0.33, 0.25), (0.67, 0.3), (1.0, 0.5), (0.1, 0.26)]
)
@pytest.mark.parametrize('channels', [CHANNELS, (40, 112, 320)])
def test_equals_a_second_interpreter(depth, width, channels, lively, error):
    ours = neck(in_channels=channels, in_strides=(4, 8, 16, 32)[-len(channels) :],
                depth_multiple=depth, width_multiple=width)  # fmt: skip
    lively(ours).eval()
    theirs = Rows(YAML, channels, depth, width).eval()
    theirs.load_state_dict(yolov5_state(ours.rows))  # strict: names and shapes
    sizes = [(40, 24), (20, 12), (10, 6), (5, 3)][-len(channels) :]
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, sizes)]
    with torch.no_grad():
        all_maps = theirs(maps)
        for i, out in zip((13, 16, 19), ours(maps), strict=True):
            assert out.shape == all_maps[i].shape
            assert error(out, all_maps[i]) < 1e-5
    assert ours.out_channels == tuple(theirs.channels[i] for i in (13, 16, 19))
    assert ours.strides == (8, 16, 32)


def test_channels_of_the_specification():
    table = {
        5: (1024, 256), 6: (256, 128), 8: (640, 640), 9: (640, 128), 10: (128, 64),
        12: (320, 320), 13: (320, 64), 14: (64, 64), 15: (128, 128), 16: (128, 128),
        17: (128, 128), 18: (384, 384), 19: (384, 256),
    }  # fmt: skip
    model = neck()
    found = {}
    for row in model.rows.rows:
        found[row.number] = (sum(x.channels for x in row.inputs), row.out_channels)
    assert {k: found[k] for k in table} == table
    assert model.rows['5'].cv1.conv.out_channels == 512  # hidden width of the SPPF
    assert len(model.rows['9'].m) == 1
    assert model.rows.rows[13].sources == [17, 5]


def test_every_batchnorm_has_yolov5s_constants():
    norms = [m for m in neck().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_convolutions_start_as_torch_leaves_them():
    """YOLOv5 keeps torch's uniform start; mmcv's ConvModule would change it."""
    torch.manual_seed(0)
    for m in neck().modules():
        if isinstance(m, nn.Conv2d):
            bound = (m.weight[0].numel()) ** -0.5
            assert 0.9 * bound < m.weight.abs().max() <= bound


@pytest.mark.parametrize(
    'activation, kind, attributes',
    [
        (None, nn.SiLU, {}),
        ('nn.SiLU()', nn.SiLU, {}),
        ('nn.ReLU()', nn.ReLU, {}),
        ('torch.nn.Hardswish(inplace=True)', nn.Hardswish, {}),
        ('nn.LeakyReLU(0.1)', nn.LeakyReLU, {'negative_slope': 0.1}),
        ('nn.LeakyReLU(negative_slope=0.2)', nn.LeakyReLU, {'negative_slope': 0.2}),
        ('nn.GELU()', nn.GELU, {}),
        ('nn.ReLU6()', nn.ReLU6, {}),
    ],
)
def test_activation(activation, kind, attributes):
    rows = [[-1, 1, 'C3', [64]], [-1, 1, 'Conv', [64, 3]]]
    model = neck(rows, out_rows=(6,), activation=activation)
    model(
        [torch.randn(2, c, 64 // s, 64 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32))]
    )
    for module in (model.rows['6'].activate, model.rows['5'].cv1.activate):
        assert type(module) is kind
        assert {k: getattr(module, k) for k in attributes} == attributes


@pytest.mark.parametrize(
    'text',
    ['__import__("os").system("false")', 'nn.Linear(1, 1)', 'nn.ReLU(0.1)', '',
     'nn.LeakyReLU(print(1))', 'nn.SiLU() or 1', 'nn.LeakyReLU([1])'],
)  # fmt: skip
def test_activation_is_never_evaluated(text):
    with pytest.raises(ValueError, match='activation'):
        parse_activation(text)


def test_rows_may_begin_at_the_image(error):
    rows = [
        [-1, 1, 'Conv', [16, 6, 2, 2]],  # 0
        [-1, 1, 'Conv', [32, 3, 2]],  # 1
        [-1, 2, 'C3', [32]],  # 2
        [-1, 2, 'Conv', [32, 3, 1, None, 4]],  # 3, twice
        [[-1, 1], 1, 'Concat', [1]],  # 4
        [-2, 1, 'Conv', [8, 3, 1, None, 1, 2, False]],  # 5: row 3, dilated, no act
    ]
    graph = RowGraph(rows, {-1: FeatureMap(3, 1)}, outputs=(4, 5), first_row=0)
    graph.eval()
    assert [row.sources for row in graph.rows] == [[-1], [0], [1], [2], [3, 1], [3]]
    assert graph.out_maps == ((64, 4), (8, 4))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first = graph['1'](graph['0'](x))
        third = graph['3'](graph['2'](first))
        expected = torch.cat([third, first], 1), graph['5'](third)
        for a, b in zip(graph([x]), expected, strict=True):
            assert torch.equal(a, b)
    assert graph['5'].conv.dilation == (2, 2) and not graph['5'].with_activation
    assert len(graph['3']) == 2 and graph['3'][0].conv.groups == 4


def test_logs_the_table_of_rows():
    logger = MMLogger.get_instance('table-test')
    records = []
    logger.handle = lambda record: records.append(record.getMessage())
    model = neck()
    table = ''.join(records)
    assert table.count('\n') >= len(YAML)
    params = sum(p.numel() for p in model.rows['5'].parameters())
    line = next(x for x in table.splitlines() if 'SPPF' in x)
    assert line.split()[:4] == ['5', '4', '1', f'{params:,}']
    assert '1024 -> 256' in line and '[1024, 5]' in line


def changed(index: int, row) -> list:
    rows = copy.deepcopy(YAML)
    rows[index] = row
    return rows


@pytest.mark.parametrize(
    'index, row, message',
    [
        (1, [-1, 1, 'Cov', [512, 1, 1]], r'row 6: \[-1, 1, Cov.*did you mean Conv'),
        (1, [-1, 1, 'Transformer', [512]], r'row 6: .*unknown module.*C3.*Upsample'),
        (1, [7, 1, 'Conv', [512]], r'row 6: \[7, 1, Conv, .*points ahead'),
        (1, [6, 1, 'Conv', [512]], 'row 6: .*points ahead'),
        (1, [-7, 1, 'Conv', [512]], r'row 6: .*map -1 .*does not exist.*\[1, 2, 3'),
        (1, [0, 1, 'Conv', [512]], r'row 6: .*map 0 .*does not exist.*\[1, 2, 3'),
        (1, ['x', 1, 'Conv', [512]], "row 6: .*'x', not a whole number"),
        (3, [[-1, 2], 1, 'Concat', [1]], 'row 8: .*differ: map 7 has 16, map 2 has 8'),
        (3, [-1, 1, 'Concat', [1]], 'row 8: .*Concat reads a list of maps, from is -1'),
        (3, [[], 1, 'Concat', [1]], 'row 8: .*empty list'),
        (3, [[-1, 3], 1, 'Concat', [2]], 'row 8: .*joined by channels'),
        (3, [[-1], 9, 'Concat', [1]], 'row 8: .*3 copies'),
        (4, [[-1, 3], 3, 'C3', [512]], r'row 9: .*C3 reads one map, from is \[-1, 3\]'),
        (4, [-1, 0, 'C3', [512]], 'row 9: .*number is 0'),
        (4, [-1, 3, 'C3', []], 'row 9: .*first argument is the number of output'),
        (4, [-1, 3, 'C3', ['512']], "row 9: .*text '512' is no argument.*never eval"),
        (4, [-1, 3, 'C3', [True]], 'row 9: .*first argument is the number of output'),
        (1, [-1, 1, 'Conv', ['__import__("os")', 1]], 'row 6: .*never evaluated'),
        (1, [-1, 1, 'Conv', [512, 1, 1, None, 1, 1, 'nn.ReLU()']], 'row 6: .*never'),
        (1, [-1, 1, 'Conv', [512, 0]], 'row 6: .*kernel 0'),
        (1, [-1, 1, 'Conv', [10**9]], 'row 6: .*not within'),
        (1, [-1, 1, 'Conv', [10**400]], 'row 6: .*not within'),
        (1, [-1, 1, 'Conv', [512, float('nan')]], 'row 6: .*nan is not within'),
        (1, [-1, 1, 'Conv', [512, float('-inf')]], 'row 6: .*-inf is not within'),
        (1, [-1, 1, 'Conv', [512, [1] * 17]], 'row 6: .*list of 17'),
        (1, [-1, 1, 'Conv', [512, {}]], 'row 6: .*dict is no argument'),
        (1, [-1, 1, 'Conv', '512'],
         r'row 6: .*a row is \[from, number, module, args\]'),
        (1, [True, 1, 'Conv', [512]], 'row 6: .*not a whole number'),
        (1, [-1, True, 'Conv', [512]], 'row 6: .*number is True'),
        (1, [-1, 1, ['Conv'], [512]], 'row 6: .*unknown module'),
        (1, [-1, 1, 'Expand', [7]], 'row 6: .*256 channels do not divide by 7'),
        (1, [-1, 1, 'Contract', ['2']], 'row 6: .*never evaluated'),
        (1, [-1, 1, 'GhostBottleneck', [512]], 'row 6: .*GhostBottleneck has a stride'),
        (1, [-1, 1, 'C3TR', [40, True, 1, 0.4]], 'row 6: .*not fit C3TR'),
        (1, [-1, 1, 'MixConv2d', [32, [1, 3, 5] * 3]], 'row 6: .*divide'),
        (1, [-1, 1, 'nn.MaxPool2d', [2, 0]], 'row 6: .*stride of 0'),
        (2, [-1, 1, 'nn.Upsample', [None, 30000, 'nearest']], 'row 7: .*stride of'),
        (4, [-1, 30000, 'C3', [512]], 'row 9: .*more than 1000 repeats'),
        (4, [-1, 10**12, 'C3', [512]], 'row 9: .*number is above'),
        (4, [-1, 3, 'C3'], r'row 9: .*a row is \[from, number, module, args\]'),
        (2, [-1, 1, 'nn.Upsample', [20]], 'row 7: .*scale factor'),
        (2, [-1, 1, 'nn.Upsample', [None, 2, 'nearest', 1, 2, 3]], 'row 7: .*not fit'),
        (1, [-1, 9, 'Conv', [512, 1, 1]], 'row 6: .*3 copies .*256 and 128'),
        (4, [-1, 3, 'C3', [512, False, 7]], 'row 9: .*not fit C3.*divisible'),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(index, row, message):
    with pytest.raises(RowError, match=message) as error:
        neck(changed(index, row))
    assert error.value.row == index + 5


def test_a_rows_number_is_known_where_a_registry_built_it():
    cfg = dict(rows=changed(1, [-1, 1, 'Cov', [512]]), out_rows=(13, 16, 19))
    with pytest.raises(ValueError, match='did you mean Conv') as error:
        MODELS.build(dict(cfg, type='YOLOv5YAMLNeck', in_channels=CHANNELS))
    assert find_user_error(error.value).row == 6


@pytest.mark.parametrize(
    'options, key, message',
    [
        (dict(out_rows=(13, 16, 20)), 'out_rows', r'output rows \[20\] do not exist'),
        (dict(out_rows=(0,)), 'out_rows', r'output rows \[0\] do not exist'),
        (dict(in_channels=(1,) * 6, in_strides=(1, 2, 4, 8, 16, 32)), 'in_channels',
         'at most 5'),
        (dict(in_channels=(1, 2), in_strides=(8,)), None, 'must be as many'),
        (dict(in_rows=(1, 3, 2, 4)), 'in_rows', 'increasing'),
        (dict(depth_multiple=0), 'depth_multiple', 'a number above 0, not 0'),
        (dict(width_multiple=True), 'width_multiple', 'a number above 0, not True'),
        (dict(activation='nn.Softmax()'), 'activation', 'allowed are.*SiLU'),
        (dict(rows=YAML * 40), 'rows', '600 rows are more than 500'),
    ],
)  # fmt: skip
def test_other_bad_arguments_are_named(options, key, message):
    with pytest.raises(UserError, match=message) as error:
        neck(**options)
    assert error.value.key == key and error.value.row is None


@pytest.mark.parametrize(
    'options, key, message',
    [
        (dict(out_rows=(0,)), 'out_rows', 'must end with the last row, 1'),
        (dict(out_rows=()), 'out_rows', 'increasing'),
        (dict(out_rows=(1,), frozen_rows=3), 'frozen_rows', 'write 0 to 2'),
    ],
)
def test_bad_arguments_of_a_backbone_are_named(options, key, message):
    rows = [[-1, 1, 'Conv', [16, 3, 2]], [-1, 1, 'C3', [16]]]
    with pytest.raises(UserError, match=message) as error:
        YOLOv5YAMLBackbone(rows, **options)
    assert error.value.key == key


def test_arguments_are_left_alone():
    rows = copy.deepcopy(YAML)
    neck(rows)
    assert rows == YAML
