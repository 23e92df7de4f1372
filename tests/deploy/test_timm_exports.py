"""Every family of timm's backbones that the tests train, exported by torch.export."""

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy.tracing import export_program, list_masked
from mmnextvit.models.timm_features import TimmFeatures
from mmnextvit.utils.errors import UserError

import pytest
import torch

from tests.helpers.timm_families import FAMILIES

pytestmark = pytest.mark.deploy

SIZE = (128, 256)
SWINS = [name for name in FAMILIES if name.startswith('swin')]


def build(name: str) -> TimmFeatures:
    torch.manual_seed(0)
    model = TimmFeatures(name, **FAMILIES[name])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_family(name):
    """What all conversions begin with gives the backbone's maps, and leaves it alone.

    The whole way to ONNX is in the table of benchmarks/README.md.
    """
    model = build(name)
    state = set(dict(model.named_buffers()))
    images = torch.rand(1, 3, *SIZE)
    expected = model(images)
    program = export_program(model, SIZE)
    for ours, theirs in zip(program.module()(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert set(dict(model.named_buffers())) == state
    for module in model.modules():
        assert 'get_attn_mask' not in vars(module)
    for ours, theirs in zip(model(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize('name', SWINS)
def test_masks_are_not_traced(name):
    """timm draws each with nine assignments, on zeros of the image's size."""
    model = build(name)
    assert list_masked(model)
    names = {str(node.target) for node in export_program(model, SIZE).graph.nodes}
    assert not {n for n in names if n.startswith(('aten.fill', 'aten.zeros'))}


@pytest.mark.slow
@pytest.mark.parametrize('name', SWINS)
def test_any_size_is_refused_at_once(name, monkeypatch):
    model = build(name)
    monkeypatch.setattr(torch.export, 'export', lambda *_, **__: pytest.fail('traced'))
    with pytest.raises(UserError, match=r'any size: export it for a fixed one \(--im'):
        export_program(model, SIZE, dynamic_size=True)
