"""What a detector costs by row, against its own figures and hand formulas."""

from mmnextvit.analysis import (
    Analysis,
    Layer,
    Row,
    analyse,
    count_layer_parameters,
    count_operations,
    list_layers,
)
from mmnextvit.cli.get_flops import (
    choose_image_size,
    describe,
    format_table,
    format_times,
)
from mmnextvit.engine.runner import build_model
from mmnextvit.models.nextvit_layers import EMHSA
from mmnextvit.models.yolov5_yaml import YOLOv5YAMLBackbone
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.helpers.commands import run_here
from tests.helpers.tiny_run import ROOT, run_tool, write_tiny_run

SMALL = ROOT / 'configs' / 'yolov5_nextvit_s.py'


@pytest.mark.slow
def test_sizes_of_the_small_detector():
    """Against the figures of the document's own model and against hand formulas."""
    model = build_model(Config.fromfile(SMALL)).eval()
    analysis = analyse(model, (640, 640))
    rows = {(row.part, row.name): row for row in analysis.rows}
    assert len(rows) == len(analysis.rows) == 5 + 15 + 1
    assert analysis.params == sum(row.params for row in rows.values()) == 32_708_477
    assert analysis.macs == sum(row.macs for row in rows.values())

    backbone = [row for (part, _), row in rows.items() if part == 'backbone']
    assert len(backbone) == 5  # the stem and four stages
    assert sum(row.params for row in backbone) == 30_738_368
    assert sum(row.macs for row in backbone) / 1e9 == pytest.approx(49.2, rel=0.01)
    last = rows['backbone', 'stage 4']
    assert (last.output, last.args) == ('1024x20x20', '3 blocks')

    neck = [name for part, name in rows if part == 'neck']
    assert [name.split()[0] for name in neck] == [str(i) for i in range(5, 20)]
    # 64 to 64 channels, 3x3, to 40x40 cells; BatchNorm has two parameters a channel
    assert rows['neck', '14 Conv'] == Row(
        part='neck',
        name='14 Conv',
        args='[256, 3, 2]',
        output='64x40x40',
        params=64 * 64 * 9 + 2 * 64,
        macs=64 * 64 * 9 * 40 * 40,
    )
    concat = rows['neck', '8 Concat']
    assert concat.params == concat.macs == 0
    # 1x1 convolutions to 3 anchors of 85 numbers
    cells = 64 * 80**2 + 128 * 40**2 + 256 * 20**2
    head = rows['bbox_head', 'YOLOv5Head']
    assert head.params == 255 * (64 + 128 + 256 + 3)
    assert head.macs == 255 * cells
    assert analysis.ms is None and all(row.ms is None for row in rows.values())


def test_attention_is_counted():
    attention = EMHSA(channels=64, sr_ratio=2).eval()
    operations = count_operations(
        [Layer('', '', (attention,))],
        attention,
        lambda: attention(torch.rand(1, 64, 16, 16)),
    )
    tokens, pooled = 256, 64
    linear = (2 * tokens + 2 * pooled) * 64 * 64
    expected = linear + 2 * tokens * pooled * 64
    assert operations.total == expected and operations.macs == [expected]
    assert operations.outputs == ['64x16x16']
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in attention.modules()]
    assert not any(after or before for after, before in hooks)


def test_what_is_called_directly_or_shared():
    """A head of which only a child is called, and one child of two layers."""
    model = nn.Module()
    model.a, model.b = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1))
    model.b.append(model.a)
    layers = list_layers(model)
    assert [layer.part for layer in layers] == ['a', 'b']
    assert count_layer_parameters(layers) == [16, 20]
    image = torch.rand(1, 3, 5, 5)
    operations = count_operations(layers, model, lambda: model.b[0](model.a(image)))
    assert operations.total == 25 * (12 + 16)
    assert operations.macs[0] == 25 * 12
    assert operations.called[1] == [model.b[0], model.a]


class Detector(nn.Module):
    """A head that has a parameter and an operation of no layer beside it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(7, 5))

    def forward(self, x, samples, mode):
        return self.head(x).flatten(1)[:, :7] @ self.scale


def test_what_is_in_no_layer_is_counted_as_other():
    analysis = analyse(Detector().eval(), (2, 2))
    assert analysis.rows == (
        Row('head', 'Conv2d', '', '4x2x2', 16, 4 * 12),
        Row('other', '', '', '', 35, 35),
    )
    assert (analysis.params, analysis.macs) == (51, 83)


def test_rows_of_a_backbone():
    rows = [[-1, 1, 'Conv', [16, 3, 2]], [-1, 2, 'C3', [16]]]
    model = nn.Module()
    model.backbone = YOLOv5YAMLBackbone(rows, out_rows=(1,)).eval()
    assert [(layer.part, layer.name) for layer in list_layers(model)] == [
        ('backbone', '0 Conv'),
        ('backbone', '1 C3 x2'),
    ]


@pytest.fixture(scope='module')
def tiny_config(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp('analysed'))


@pytest.mark.slow
def test_times_of_rows(tiny_config):
    model = build_model(Config.fromfile(tiny_config)).eval()
    analysis = analyse(model, (64, 96), profile=True)
    rows = {(row.part, row.name): row for row in analysis.rows}
    assert len(rows) == 5 + 15 + 1
    times = [row.ms for row in rows.values()]
    assert min(times) >= 0 and sum(times) > 0 and analysis.ms > 0
    *cells, (total, whole) = format_times(times)
    assert whole == '100.0'
    shown, shares = zip(*((float(ms), float(share)) for ms, share in cells))
    # Each is rounded, to 0.01 ms and 0.1 %.
    assert sum(shown) == pytest.approx(float(total), abs=0.005 * len(rows) + 0.01)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(rows))
    assert rows['backbone', 'stage 1'].output == '32x16x24'
    assert rows['neck', '13 C3'].output == '64x8x12'
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert not any(after or before for after, before in hooks)


TIMED = Analysis(
    rows=(
        Row('backbone', 'stem', '', '64x8x8', 1234, 4_000_000, 3.0),
        Row('neck', '5 Conv', '[64, 3]', '64x8x8', 5, 1_000_000, 1.0),
        Row('other', '', '', '', 1, 0),
    ),
    params=1240,
    macs=5_000_000,
    ms=3.5,
)


TABLE = """
part      row     parameters  GMACs    ms      %  output and arguments
----------------------------------------------------------------------
backbone  stem         1,234  0.004  3.00   75.0  64x8x8
neck      5 Conv           5  0.001  1.00   25.0  64x8x8  [64, 3]
other                      1  0.000  0.00    0.0
----------------------------------------------------------------------
total                  1,240  0.005  4.00  100.0
"""
UNTIMED_TABLE = """
part   row     parameters  GMACs  output and arguments
------------------------------------------------------
neck   5 Conv           5  0.001  64x8x8  [64, 3]
other                   1  0.000
------------------------------------------------------
total                   6  0.001
"""


def test_the_table_has_times_where_they_were_measured():
    assert format_table(TIMED) == TABLE.strip()
    untimed = Analysis(TIMED.rows[1:], params=6, macs=1_000_000)
    assert format_table(untimed) == UNTIMED_TABLE.strip()


def test_the_summary():
    text = describe(TIMED, (64, 96), torch.device('cpu'))
    assert 'One image of 64x96 (height x width), batch 1: 1,240 parameters' in text
    assert 'whole forward pass takes 3.50 ms on the CPU' in text
    untimed = Analysis(TIMED.rows, 1240, 5 * 10**9)
    text = describe(untimed, (64, 96), torch.device('cpu'))
    assert '5.00 GMACs = 10.00 GFLOPs' in text and ' ms ' not in text


def test_the_images_size():
    assert choose_image_size([64, 96], Config()) == (64, 96)
    assert choose_image_size(None, Config(dict(img_scale=(96, 64)))) == (64, 96)
    assert choose_image_size(None, Config()) == (640, 640)
    for shape in ([0, 640], [640, -1]):
        with pytest.raises(UserError, match='must be 1 or more'):
            choose_image_size(shape, Config())
    for shape in ([999_999, 999_999], [640, 16_385]):
        with pytest.raises(UserError, match=f'{shape[1]}: .* and 16384 or less'):
            choose_image_size(shape, Config())
    assert choose_image_size([16_384, 64], Config()) == (16_384, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    'args, message',
    [
        (['tiny.py', '--shape', 0, 640], '--shape 0 640: both must be 1 or more'),
        (['tiny.py', '--shape', 100, 100, '--device=cpu'],
         'tiny.py: the model computes no image of 100x100 (height x width); multiples '
         'of 32'),
        (['tiny.py', '--shape', 8, 8, '--device=cpu'],
         'image of 8x8 (height x width) is too small'),
        (['tiny.py', '--cfg-options', 'model.backbone.out_indexes=1'],
         "get_flops: tiny.py: model.backbone.out_indexes: NextViT has no argument "
         "'out_indexes': did you mean out_indices"),
        (['tiny.py', '--cfg-options', 'model.backbone.type=mmdet.NextVit'],
         "get_flops: tiny.py: type 'mmdet.NextVit': there is no such model: did you "
         'mean NextViT'),
        (['no.py'], 'mmnextvit get_flops: config no.py does not exist'),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments(args, message, tiny_config, capfd):
    printed = run_here('get_flops', *args, cwd=tiny_config.parent, capfd=capfd, code=1)
    assert message in printed.splitlines()[-1]


@pytest.mark.slow
def test_without_times(tiny_config, capfd):
    options = '--shape', 64, 64, '--device=cpu'
    printed = run_here(
        *('get_flops', 'tiny.py', *options), cwd=tiny_config.parent, capfd=capfd
    )
    assert 'One image of 64x64 (height x width)' in printed and 'SPPF' in printed
    assert ' ms' not in printed


@pytest.mark.slow
def test_the_tool(tiny_config):
    """In a user's folder; weights that the config names are not looked for."""
    printed = run_tool(
        *('get_flops.py', 'tiny.py', '--shape', 64, 96, '--profile', '--cfg-options'),
        'model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint=nowhere.pth',
        cwd=tiny_config.parent,
    )
    assert 'One image of 64x96 (height x width)' in printed
    assert 'whole forward pass takes' in printed and 'SPPF' in printed
