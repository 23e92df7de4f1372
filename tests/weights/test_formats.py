"""Conversions by name, there and back, and models that give the same maps after."""

from mmnextvit import NextViT
from mmnextvit.weights.layouts import (
    FORMATS,
    extract_backbone,
    from_official,
    from_timm,
    from_yolov5,
    recognise_format,
    to_timm,
    to_yolov5,
)

import pytest
import timm
import torch
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

ARCHS = ['small', 'base', 'large']


@pytest.fixture(scope='module')
def detectors():
    """State dicts of our three detectors, with 3 classes."""
    from mmengine.config import Config

    from tests.conftest import ROOT

    init_default_scope('mmyolo')
    states = {}
    for arch in ARCHS:
        path = ROOT / 'configs' / f'yolov5_nextvit_{arch[0]}.py'
        cfg = Config.fromfile(path).model
        cfg.bbox_head.head_module.num_classes = 3
        states[arch] = MODELS.build(cfg).state_dict()
    return states


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k] is b[k] for k in a)


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
def test_round_trips(arch, detectors):
    """Every conversion and its inverse give the same tensors, not copies."""
    ours = detectors[arch]
    backbone = {k: v for k, v in ours.items() if k.startswith('backbone.')}
    for key, layout in FORMATS.items():
        theirs = layout.from_ours(ours)
        assert recognise_format(set(theirs)) == key
        back = layout.to_ours(theirs)
        assert same(back, ours if key in ('ours', 'yolov5') else backbone), key
        assert same(layout.from_ours(back), theirs), key


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('features_only', [True, False])
def test_timm_names_are_timms(arch, features_only, detectors):
    """A strict load both ways."""
    theirs = timm.create_model(f'nextvit_{arch}', features_only=features_only)
    if not features_only:
        state = to_timm(detectors[arch])
        head = {k: v for k, v in theirs.state_dict().items() if 'head.' in k}
        theirs.load_state_dict({**state, **head})
    ours = NextViT(arch, final_norm=not features_only)
    ours.load_state_dict(extract_backbone(from_timm(theirs.state_dict())))


@pytest.mark.slow
@pytest.mark.parametrize('out_indices', [(0, 1), (0, 1, 2)])
def test_timm_names_of_fewer_stages(out_indices):
    state = NextViT('base', out_indices=out_indices).state_dict()
    ours = {f'backbone.{k}': v for k, v in state.items()}
    theirs = to_timm(ours)
    full = timm.create_model('nextvit_base').state_dict()
    assert all(full[k].shape == v.shape for k, v in theirs.items())
    assert same(from_timm(theirs), ours)


def test_official_names():
    """The classifier is left out; what is left are the official names as they are."""
    state = NextViT('small').state_dict()
    official = {**state, 'proj_head.0.weight': torch.ones(1000, 1024)}
    ours = from_official(official)
    assert same(extract_backbone(ours), dict(state))


@pytest.mark.slow
def test_yolov5_names_are_those_of_the_reference(detectors):
    """Rows against the second interpreter of the tests, which has YOLOv5's names."""
    from tests.helpers.yolov5_neck import CHANNELS, YAML
    from tests.helpers.yolov5_reference import Rows

    theirs = to_yolov5(detectors['small'])
    rows = {
        k.replace(f'model.{i}.', f'model.{i - 1}.', 1): v
        for k, v in theirs.items()
        if 0 < (i := int(k.split('.')[1])) < 16
    }
    Rows(YAML, CHANNELS, 0.33, 0.25).load_state_dict(rows)
    head = {k: tuple(v.shape) for k, v in theirs.items() if k.startswith('model.16.')}
    channels = (64, 128, 256)
    assert head == {
        **{f'model.16.m.{i}.weight': (24, c, 1, 1) for i, c in enumerate(channels)},
        **{f'model.16.m.{i}.bias': (24,) for i in range(3)},
    }
    anchors = {'model.16.anchors': torch.ones(3, 3, 2)}  # a config has them
    assert same(from_yolov5({**theirs, **anchors}), dict(detectors['small']))


def test_unknown_names():
    with pytest.raises(ValueError, match='no known layout.*conv.weight'):
        recognise_format({'conv.weight', 'fc.bias'})
    with pytest.raises(ValueError, match='a backbone of 12 blocks'):
        to_timm(
            {f'backbone.features.{i}.norm.weight': torch.ones(1) for i in range(12)}
        )
