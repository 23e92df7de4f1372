"""A detector's feature maps: which ones there are, and how they are drawn."""

import json
from types import SimpleNamespace

from mmnextvit.engine import runner
from mmnextvit.models.yolov5_yaml import YOLOv5YAMLBackbone
from mmnextvit.visualization.feature_maps import (
    collect_feature_maps,
    draw_channels,
    draw_heat,
    draw_overview,
)

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.helpers.commands import call_here
from tests.helpers.tiny_run import write_tiny_run


@pytest.fixture(scope='module')
def tiny_run(tmp_path_factory):
    """A folder with a tiny config and a checkpoint of its random weights."""
    folder = tmp_path_factory.mktemp('inspected')
    config = write_tiny_run(folder)
    model = runner.build_model(Config.fromfile(config))
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'random.pth')
    return folder


@pytest.mark.slow
def test_predict_draws_feature_maps(tiny_run):
    """Every row of two images and of a video's first frame."""
    source = tiny_run / 'input'
    source.mkdir()
    names = sorted(p.name for p in (tiny_run / 'data' / 'val').iterdir())[:2]
    video = cv2.VideoWriter(
        str(source / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64)
    )
    for name in names:
        image = cv2.imread(str(tiny_run / 'data' / 'val' / name))
        cv2.imwrite(str(source / name), image)
        video.write(image)
    video.release()
    call_here(
        *('predict', 'tiny.py', 'random.pth', source, '--out-dir', 'predicted'),
        *('--feature-maps', '--device', 'cpu'),
        cwd=tiny_run,
    )
    out = tiny_run / 'predicted'
    predictions = json.loads((out / 'predictions.json').read_text())['predictions']
    files = ['film.avi', *names]
    folders = {p['feature_maps'] for p in predictions if 'feature_maps' in p}
    assert len(predictions) == 4
    assert folders == {f'feature_maps/{name}' for name in files}
    assert 'feature_maps' not in next(p for p in predictions if p.get('frame') == 1)

    expected = """
        overview backbone_P2_32x16x16 backbone_P3_128x8x8 backbone_P4_128x4x4
        backbone_P5_128x2x2 05_SPPF_256x2x2 06_Conv_128x2x2 07_nn.Upsample_128x4x4
        08_Concat_256x4x4 09_C3_128x4x4 10_Conv_64x4x4 11_nn.Upsample_64x8x8
        12_Concat_192x8x8 13_C3_64x8x8 14_Conv_64x4x4 15_Concat_128x4x4
        16_C3_128x4x4 17_Conv_128x2x2 18_Concat_384x2x2 19_C3_256x2x2
    """
    for folder in folders:
        drawn = sorted((out / folder).iterdir())
        assert {p.name for p in drawn} == {f'{stem}.png' for stem in expected.split()}
        for path in drawn[:-1]:
            sheet = cv2.imread(str(path))
            assert sheet.shape == (46 + 6 + 4 * 166, 6 + 8 * 166, 3), path
        overview = cv2.imread(str(out / folder / 'overview.png'))
        assert overview.shape[1] == 12 + 5 * (220 + 12)


class Detector(nn.Module):
    """A backbone with two maps of one size, and a neck that is no row graph."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.forward = lambda x: (x[..., ::4, ::4], x[..., 1::4, 1::4])
        self.neck = nn.Module()
        self.neck.forward = lambda maps: maps[0][..., ::2, ::2].add_(1)

    def forward(self, x):
        return self.neck(self.backbone(x))


def test_maps_of_any_detector_and_no_hook_stays():
    model, x = Detector(), torch.rand(2, 3, 16, 32)
    parts = model.backbone, model.neck
    before = x.clone()
    with collect_feature_maps(model) as maps:
        for _ in range(2):
            x.copy_(before)
            model(x)
    assert list(maps) == ['backbone P2', 'backbone P2 map 1', 'neck P3']
    # As they were given, though the neck then worked in place.
    assert torch.equal(maps['backbone P2'], before[0, :, ::4, ::4])
    assert torch.equal(maps['neck P3'], before[0, :, ::8, ::8] + 1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in parts)

    with pytest.raises(RuntimeError), collect_feature_maps(model):
        assert all(m._forward_hooks for m in parts)
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in parts)

    del model.neck
    with collect_feature_maps(SimpleNamespace(backbone=model.backbone)) as maps:
        model.backbone(x)
    assert len(maps) == 2


def test_a_backbone_of_rows():
    rows = [[-1, 1, 'Conv', [16, 3, 2]], [-1, 2, 'C3', [16]]]
    model = nn.Module()
    model.backbone = YOLOv5YAMLBackbone(rows, out_rows=(1,)).eval()
    with collect_feature_maps(model) as maps:
        model.backbone(torch.rand(1, 3, 32, 32))
    sizes = {name: tuple(x.shape) for name, x in maps.items()}
    assert sizes == {'00 Conv': (16, 16, 16), '01 C3': (16, 16, 16)}


def test_maps_are_upright_and_each_of_its_own_range():
    feature_map = torch.zeros(2, 4, 8)
    feature_map[0, 0, 7] = 1e-3
    feature_map[1, 3, 0] = 1e3
    for channel, (y, x) in zip(feature_map, ((10, 150), (70, 10))):
        drawn = draw_heat(channel, 160)
        assert drawn.shape == (80, 160, 3)
        assert drawn[y, x].tolist() == [128, 0, 0]  # red
        assert (drawn == drawn[40, 80]).all(2).mean() == 31 / 32
        assert drawn[40, 80].tolist() == [0, 0, 128]  # blue
    sheet = draw_channels('x', feature_map)
    assert (sheet == (128, 0, 0)).all(2).sum() == 2 * 20 * 20


@pytest.mark.parametrize('value', [0.0, 7.0, float('nan'), float('inf')])
def test_constant_and_bad_maps(value):
    whole = torch.full((3, 4, 4), value)
    for feature_map in (whole, torch.cat((whole, torch.rand(3, 4, 4)))):
        assert draw_channels('x', feature_map).dtype == np.uint8
        overview = draw_overview(np.zeros((64, 48, 3), np.uint8), {'x': feature_map})
        assert overview.shape[2] == 3
