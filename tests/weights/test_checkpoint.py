"""A checkpoint that does not fit a model says what does not, and why."""

import re

from mmnextvit import NextViT
from mmnextvit.weights.receipt import fit

import pytest
import torch


@pytest.fixture(scope='module')
def states():
    return {
        arch: {f'backbone.{k}': v for k, v in NextViT(arch).state_dict().items()}
        for arch in ('small', 'base')
    }


@pytest.mark.slow
def test_fit_of_the_same_model(states):
    fitted = fit(
        states['small'], {f'module.{k}': v for k, v in states['small'].items()}
    )
    total = sum('num_batches_tracked' not in k for k in states['small'])
    assert fitted.complete and len(fitted.fitting) == total and not fitted.reason
    assert str(fitted) == f"{total} of the model's {total} tensors fit"


@pytest.mark.slow
def test_fit_of_another_arch(states):
    small, base = states['small'], states['base']
    fitted = fit(small, base)
    fits = [k for k in small if k in base and small[k].shape == base[k].shape]
    assert len(fitted.fitting) == sum('num_batches' not in k for k in fits)
    text = str(fitted)
    assert text.startswith(f'{len(fitted.fitting)} of the model')
    name, shape = next(
        (k, v.shape)
        for k, v in base.items()
        if k in small and v.shape != small[k].shape
    )
    assert f'{name} ({"x".join(map(str, shape))} in the file, ' in text
    assert 'not in the model: backbone.features.' in text
    assert len(re.findall(r' and \d+ more\b', text)) >= 2  # the lists are cut short
    assert "its backbone has 30 blocks (arch 'base'), the model's 20 blocks " in text
    assert text.endswith("(arch 'small').")
    # and the other way round tensors are missing
    assert 'not in the file: backbone.features.' in str(fit(base, small))


@pytest.mark.slow
def test_fit_of_another_head(states):
    model = dict(states['small'], **{'bbox_head.conv.weight': torch.ones(24, 8, 1, 1)})
    file = dict(model, **{'bbox_head.conv.weight': torch.ones(255, 8, 1, 1)})
    fitted = fit(model, file)
    assert not fitted.complete and fitted.fills('backbone.')
    assert not fitted.fills('bbox_head.')
    assert 'weight (255x8x1x1 in the file, 24x8x1x1 in the model)' in str(fitted)
    assert 'another number of classes' in fitted.reason


def test_fit_of_nothing(states):
    fitted = fit(states['small'], {'conv.weight': torch.ones(1)})
    assert str(fitted).startswith('0 of the model') and fitted.unexpected == [
        'conv.weight'
    ]
