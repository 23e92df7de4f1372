"""Weights of colour images in models for grey ones, and for ones of four channels."""

from mmnextvit import NextViT
from mmnextvit.models.timm_features import TimmFeatures
from mmnextvit.models.yolov5_yaml import YOLOv5YAMLBackbone
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.image_channels import fit_image_channels

import pytest
import torch

from tests.conftest import TINY

STEM = 'stem.0.conv.weight'


def build(channels: int) -> NextViT:
    return NextViT(arch=TINY, in_channels=channels).eval()


@torch.no_grad()
def test_a_grey_image_gives_what_it_gave_in_colour():
    torch.manual_seed(0)
    colour, grey = build(3), build(1)
    state, (note,) = fit_image_channels(grey, colour.state_dict())
    assert 'has weights for 3 channels in the file: they were summed for images' in note
    grey.load_state_dict(state)
    image = torch.rand(1, 1, 64, 64)
    for ours, theirs in zip(grey(image), colour(image.expand(-1, 3, -1, -1))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_fourth_channel():
    colour, four = build(3), build(4)
    before = colour.state_dict()[STEM]
    state, (note,) = fit_image_channels(four, colour.state_dict())
    assert 'repeated, scaled by 3/4, for images of 4 channels' in note
    assert torch.equal(state[STEM], before[:, [0, 1, 2, 0]] * 0.75)
    assert {*state} == {*colour.state_dict()}


@torch.no_grad()
def test_grey_weights_for_colours():
    grey, colour = build(1), build(3)
    state, _ = fit_image_channels(colour, grey.state_dict())
    colour.load_state_dict(state)
    image = torch.rand(1, 1, 64, 64)
    for ours, theirs in zip(colour(image.expand(-1, 3, -1, -1)), grey(image)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def build_rows(channels: int, first: str) -> YOLOv5YAMLBackbone:
    rows = [[-1, 1, first, [16, 3]], [-1, 1, 'Conv', [16, 3, 2]]]
    return YOLOv5YAMLBackbone(rows, out_rows=(1,), in_channels=channels).eval()


@torch.no_grad()
@pytest.mark.parametrize('first, pixels', [('Focus', 4), ('Conv', 1)])
def test_rows_that_begin_with_focus(first, pixels):
    """It gives its convolution each channel four times."""
    torch.manual_seed(0)
    colour, grey, four = (build_rows(count, first) for count in (3, 1, 4))
    name = next(name for name in colour.state_dict() if name.endswith('conv.weight'))
    state, (note,) = fit_image_channels(grey, colour.state_dict())
    assert 'for 3 channels in the file: they were summed for images of 1 chan' in note
    grey.load_state_dict(state)
    image = torch.rand(1, 1, 64, 64)
    wanted = colour(image.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(grey(image)[0], wanted, rtol=1e-4, atol=1e-5)

    before = colour.state_dict()[name]
    state, (note,) = fit_image_channels(four, colour.state_dict())
    assert 'were repeated, scaled by 3/4, for images of 4 channels' in note
    ours, theirs = (w.unflatten(1, (pixels, -1)) for w in (state[name], before))
    assert torch.equal(ours, theirs[:, :, [0, 1, 2, 0]] * 0.75)

    state, _ = fit_image_channels(colour, grey.state_dict())
    colour.load_state_dict(state)
    found = colour(image.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(found, grey(image)[0], rtol=1e-4, atol=1e-5)


def test_receipts_say_what_was_done():
    four, colour, grey, many = (build(count) for count in (4, 3, 1, 6))
    before = four.state_dict()[STEM]
    state, (note,) = fit_image_channels(colour, four.state_dict())
    assert 'for 4 channels in the file: they were cut to the first 3, scaled' in note
    assert 'by 4/3, for images of 3 channels' in note and 'repeated' not in note
    torch.testing.assert_close(state[STEM], before[:, :3] * 4 / 3)
    _, (note,) = fit_image_channels(colour, grey.state_dict())
    assert 'for 1 channel in the file' in note
    state, _ = fit_image_channels(many, colour.state_dict())
    assert state[STEM].shape[1] == 6


def test_what_fits_and_what_is_another_layer_stay():
    model = build(3)
    state = model.state_dict()
    assert fit_image_channels(model, state) == (state, [])
    other = {**state, STEM: torch.zeros(8, 3, 5, 5)}
    assert fit_image_channels(model, other) == (other, [])
    assert fit_image_channels(build(1), {}) == ({}, [])


@torch.no_grad()
def test_a_whole_detector_and_timm():
    timm = TimmFeatures('resnet18', in_chans=1, strides=(8, 16))
    colour = TimmFeatures('resnet18', strides=(8, 16)).state_dict()
    detector = torch.nn.Module()
    detector.backbone = timm
    state = {f'backbone.{name}': value for name, value in colour.items()}
    fitted, (note,) = fit_image_channels(detector, state)
    assert 'backbone.model.conv1.weight' in note
    wanted = colour['model.conv1.weight'].sum(1, keepdim=True)
    torch.testing.assert_close(fitted['backbone.model.conv1.weight'], wanted)
    assert timm(torch.rand(1, 1, 64, 64))[0].shape[-1] == 8


@pytest.mark.parametrize('channels', [0, -1, 1.0, True, '3'])
def test_numbers_that_are_none(channels):
    with pytest.raises(UserError, match='number of channels of an image'):
        NextViT(arch=TINY, in_channels=channels)
