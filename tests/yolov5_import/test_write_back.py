"""A detector of ours back into YOLOv5, by the lines that the conversion prints."""

import re
import sys
from types import ModuleType

from mmnextvit.engine.runner import build_model
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.contents import Weights
from mmnextvit.weights.conversion import convert_file
from mmnextvit.weights.layouts import Numbering
from mmnextvit.yolov5_import.write_back import describe_model, make_extras

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.conftest import ROOT
from tests.helpers.commands import call_here, run_here
from tests.helpers.yolov5_models import write_yaml, yolov5_model
from tests.helpers.yolov5_reference import Rows

NAMES = ['cat', 'dog', 'cow']


class Detect(nn.Module):
    """YOLOv5's head as documented: a convolution a level, anchors in cells."""

    def __init__(self, nc, anchors, channels):
        super().__init__()
        anchors = torch.tensor(anchors, dtype=torch.float).view(len(channels), -1, 2)
        self.register_buffer(
            'anchors', anchors / torch.tensor([8, 16, 32]).view(-1, 1, 1)
        )
        outputs = anchors.shape[1] * (nc + 5)
        self.m = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in channels)

    def forward(self, maps):
        return [conv(x) for conv, x in zip(self.m, maps)]


class Model(nn.Module):
    """A YOLOv5 model that the second interpreter of the tests makes of a YAML."""

    def __init__(self, yaml):
        super().__init__()
        *rows, (self.outs, _, name, _) = yaml['backbone'] + yaml['head']
        assert name == 'Detect'
        graph = Rows(
            [[i + 5 if i >= 0 else i, *rest] if not isinstance(i, list)
             else [[j + 5 if j >= 0 else j for j in i], *rest] for i, *rest in rows],
            [3], yaml['depth_multiple'], yaml['width_multiple'],
        )  # fmt: skip
        channels = [graph.channels[5 + i] for i in self.outs]
        detect = Detect(yaml['nc'], yaml['anchors'], channels)
        self.model = nn.Sequential(*graph.model, detect)
        self.graph, self.yaml = [graph], yaml  # in a list: its parameters count once

    def forward(self, image):
        maps = self.graph[0]([image])
        return self.model[-1]([maps[5 + i] for i in self.outs])


@pytest.mark.slow
def test_there_and_back_again(tmp_path, monkeypatch, capfd, lively):
    """The printed lines make a file of which YOLOv5's own reading gives our maps."""
    file = write_yaml(tmp_path / 'model.yaml', yolov5_model('n', nc=3))
    call_here('import_yolov5', file, '-o', 'mine.py', cwd=tmp_path)
    detector = lively(build_model(Config.fromfile(tmp_path / 'mine.py'))).eval()
    meta = {'dataset_meta': {'classes': NAMES}}
    state = {'meta': meta, 'state_dict': detector.state_dict()}
    torch.save(state, tmp_path / 'ours.pth')
    printed = run_here(
        'convert_weights', 'ours.pth', 'back.pt', '--to', 'yolov5', '--config',
        'mine.py', cwd=tmp_path, capfd=capfd,
    )  # fmt: skip
    (steps,) = re.findall(r'^import torch\n.*\n', printed, re.S | re.M)
    assert len(steps.strip().splitlines()) <= 10
    yolo = ModuleType('models.yolo')
    yolo.Model = Model
    monkeypatch.setitem(sys.modules, 'models', ModuleType('models'))
    monkeypatch.setitem(sys.modules, 'models.yolo', yolo)
    monkeypatch.chdir(tmp_path)
    written = {}  # a pickle would need to import the classes above
    with monkeypatch.context() as patch:
        patch.setattr(
            torch, 'save', lambda content, path: written.update({path: content})
        )
        exec(steps, {})
    saved = written['back_yolov5.pt']
    assert saved['model'].names == dict(enumerate(NAMES)) and saved['ema'] is None
    theirs = saved['model'].float().eval()
    detector.half().float()  # what the file holds
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        outputs = detector.bbox_head.head_module.convs_pred
        maps = detector.extract_feat(image)
        for output, own, other in zip(outputs, maps, theirs(image), strict=True):
            own = output(own)
            assert own.std() > 0.01
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    sizes = theirs.model[-1].anchors * torch.tensor([8, 16, 32]).view(-1, 1, 1)
    wanted = torch.tensor(detector.bbox_head.prior_generator.base_sizes).float()
    torch.testing.assert_close(sizes, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    'names, layout',
    [
        (['backbone.rows.0.conv.weight', 'neck.rows.5.conv.weight'], 'yolov5'),
        (['model.0.conv.weight', 'model.1.conv.weight'], 'ours'),
        (['model.0.conv.conv.weight', 'model.1.conv.weight'], 'ours'),
    ],
)
def test_rows_from_the_image_need_their_config(names, layout, tmp_path):
    """Without it they became model.-4 or rows of the neck."""
    torch.save({'state_dict': dict.fromkeys(names, torch.ones(2))}, tmp_path / 'a.pth')
    out = tmp_path / 'b.pth'
    with pytest.raises(UserError, match='a.pth: its rows begin .* --config'):
        convert_file(str(tmp_path / 'a.pth'), out, layout)
    assert not out.exists()
    convert_file(str(tmp_path / 'a.pth'), out, layout, Numbering(shift=0))


def test_rows_of_a_whole_backbone():
    cfg = Config.fromfile(ROOT / 'configs' / 'yolov5_nextvit_s.py')
    detector = nn.Module()
    detector.bbox_head = nn.Module()
    detector.bbox_head.num_classes = 80
    detector.bbox_head.prior_generator = nn.Module()
    detector.bbox_head.prior_generator.base_sizes = [[(10, 13), (16, 30)]]
    yaml = describe_model(cfg, detector)
    assert yaml['backbone'] == [[-1, 1, 'nextvit_small', [False]]]
    assert yaml['head'][0] == [-1, 1, 'SPPF', [1024, 5]]
    assert yaml['head'][-1] == [[13, 16, 19], 1, 'Detect', ['nc', 'anchors']]
    assert yaml['anchors'] == [[10, 13, 16, 30]] and yaml['nc'] == 80
    cfg.model.backbone.arch = dict(depths=[1, 2, 5, 2])
    with pytest.raises(UserError, match='has no name as a row'):
        describe_model(cfg, detector)
    cfg.model.backbone = dict(type='mmdet.ResNet', depth=18)
    with pytest.raises(UserError, match='no ResNet'):  # it was written as NextViT
        describe_model(cfg, detector)
    other = Config.fromfile(ROOT / 'configs' / 'yolov8_nextvit_s.py')
    with pytest.raises(UserError, match='YOLOv5HeadModule'):
        describe_model(other, detector)


@pytest.mark.parametrize(
    'state, message',
    [
        (
            {'neck.weight': torch.ones(3, 2, 1, 1)},
            r'\(3, 2, 1, 1\), not \(2, 2, 1, 1\)',
        ),
        ({'neck.bias': torch.ones(2)}, 'neck.weight is missing'),
    ],
)
def test_weights_of_another_detector_are_refused(state, message):
    """They were written beside a YAML in which YOLOv5 cannot load them."""
    detector = nn.Module()
    detector.neck = nn.Conv2d(2, 2, 1)
    with pytest.raises(UserError, match=message):
        make_extras({}, detector, Weights(state, 'ours'), None)
