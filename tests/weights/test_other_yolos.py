"""Files of YOLOv5's kin as they are: grids after an inference, other heads, YOLOv8."""

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

from mmnextvit.utils.errors import UserError
from mmnextvit.weights.contents import extract_weights
from mmnextvit.weights.reader import read_checkpoint

import pytest
import torch
from torch import nn

# Of the classes that exist while a file is written there is no source.
pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source")


@contextmanager
def importable(*names: str):
    """Classes by full name, which can be imported while a file is written."""
    classes, added = {}, set()
    for full in names:
        home, _, name = full.rpartition('.')
        parts = home.split('.')
        for end in range(1, len(parts) + 1):
            part = '.'.join(parts[:end])
            if part not in sys.modules:
                sys.modules[part] = ModuleType(part)
                added.add(part)
        base = nn.Module if name[0].isupper() else object
        made = type(name, (base,), {'__module__': home})
        setattr(sys.modules[home], name, made)
        classes[name] = made
    try:
        yield SimpleNamespace(**classes)
    finally:
        for part in added:
            del sys.modules[part]


def build(model: nn.Module, conv: nn.Module, head: nn.Module) -> nn.Module:
    """A model of numbered modules, as YOLOv5's."""
    model.model = nn.Sequential(conv, head)
    head.stride = torch.tensor([8.0])
    head.nc, model.names = 1, ['cat']
    return model


def add_outputs(head: nn.Module, outputs: nn.Module) -> nn.Module:
    head.m = nn.ModuleList([outputs])
    return head


@pytest.mark.parametrize('zipped', [True, False])
def test_grids_that_an_inference_left(tmp_path, zipped):
    """Expanded views, of which few numbers are stored, in a list or as a buffer."""
    path = tmp_path / 'best.pt'
    weight = torch.rand(18, 4, 1, 1)
    with importable('models.yolo.Detect', 'models.yolo.DetectionModel') as classes:
        outputs = nn.Conv2d(4, 18, 1)
        outputs.weight.data = weight
        head = add_outputs(classes.Detect(), outputs)
        grid = torch.rand(1, 3, 1, 1, 2).expand(1, 3, 80, 80, 2)
        head.grid = head.anchor_grid = [grid]
        head.register_buffer('old_grid', grid)
        model = build(classes.DetectionModel(), nn.Conv2d(3, 4, 1), head)
        torch.save({'model': model}, path, _use_new_zipfile_serialization=zipped)
    weights = extract_weights(read_checkpoint(path), str(path))
    (kept,) = (v for k, v in weights.state.items() if v.shape == weight.shape)
    assert torch.equal(kept, weight)
    assert weights.metadata['num_classes'] == 1 and 'head' not in weights.metadata


@pytest.mark.parametrize('zipped', [True, False])
def test_an_expanded_parameter_is_refused(tmp_path, zipped):
    """Of which a model would need memory that the file does not have."""
    path = tmp_path / 'x.pt'
    with importable('models.yolo.Detect', 'models.yolo.Model') as classes:
        outputs = nn.Conv2d(4, 18, 1)
        outputs.weight = nn.Parameter(torch.ones(1).expand(18, 4, 1, 1))
        head = add_outputs(classes.Detect(), outputs)
        model = build(classes.Model(), nn.Conv2d(3, 4, 1), head)
        torch.save({'model': model}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match='m.0.weight. is larger than what is stored'):
        extract_weights(read_checkpoint(path), str(path))


@pytest.mark.parametrize(
    'name, said',
    [('Detect', 'a decoupled head (Detect)'),
     ('Decoupled_Detect', 'a decoupled head (Decoupled_Detect)'),
     ('ASFF_Detect', 'a ASFF_Detect')],
)  # fmt: skip
def test_other_heads_are_named(tmp_path, name, said):
    path = tmp_path / 'best.pt'
    head_name = f'models.yolo.{name}'
    with importable(head_name, 'models.yolo.Model', 'models.yolo.Branch') as classes:
        outputs = classes.Branch()
        outputs.conv = nn.Conv2d(4, 18, 1)
        head = add_outputs(getattr(classes, name)(), outputs)
        model = build(classes.Model(), nn.Conv2d(3, 4, 1), head)
        torch.save({'model': model}, path)
    weights = extract_weights(read_checkpoint(path), str(path))
    assert weights.metadata['head'] == said


@pytest.mark.parametrize(
    'package, file, said',
    [
        ('ultralytics.nn.tasks', 'yolov8n.yaml', 'a YOLOv8 model'),
        ('ultralytics.nn.tasks', 'yolo11s-seg.pt', 'a YOLO11 model'),
        ('ultralytics.nn.tasks', 'mine.yaml', 'a model of Ultralytics from YOLOv8 on'),
        ('yolov6.models.yolo', 'x', 'a YOLOv6 model'),
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_later_yolos_are_named(tmp_path, package, file, said, zipped):
    """In a line, even where the file would call what no checkpoint needs."""
    path = tmp_path / 'best.pt'
    names = f'{package}.DetectionModel', 'ultralytics.utils.spaces'
    with importable(*names) as classes:
        spaces = classes.spaces
        spaces.__reduce__ = lambda self: (spaces, (1,))
        model = classes.DetectionModel()
        model.yaml = {'yaml_file': file}
        content = {'model': model, 'train_args': spaces()}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(error.value) == (
        f"{path}: this is {said}; YOLOv5's are read, and our own"
    )
