"""Backbones under one neck and head: what is timed, compared and told."""

import multiprocessing
import os
import time
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.benchmark import backbone_table
from mmnextvit.benchmark.backbone_table import (
    MODELS,
    ONNX,
    OPENVINO,
    RUNTIMES,
    TORCH,
    BackboneRow,
    Export,
    Turn,
    build_detector,
    check_models,
    explain_difference,
    export_here,
    export_within,
    find_accuracy,
    make_backbone_table,
    make_row,
    measure_backbones,
    take_turn,
)
from mmnextvit.benchmark.formats import Failure
from mmnextvit.benchmark.imagenet import ACCURACIES
from mmnextvit.models.nextvit import NextViT
from mmnextvit.models.timm_features import TimmFeatures
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

pytestmark = pytest.mark.deploy

SMALLEST = 'test_byobnet.r160_in1k'


@pytest.mark.slow
def test_runtimes_compute_the_same_network(monkeypatch):
    """Each of the three is timed, and the detector counted as a whole."""

    def export(name: str, size: int, path: Path, limit: float) -> Export:
        export_here(name, size, path)
        return Export(path, '')

    monkeypatch.setattr(backbone_table, 'export_within', export)
    (row,) = measure_backbones([SMALLEST], 64, 1)
    assert not row.reasons and set(row.seconds) == set(RUNTIMES)
    assert all(0 < seconds < 60 for seconds in row.seconds.values())
    detector = build_detector(SMALLEST)
    assert row.params == sum(p.numel() for p in detector.parameters())
    assert row.macs > 1e6


@pytest.mark.slow
def test_a_detector_is_like_a_trained_one():
    detector = build_detector(SMALLEST)
    assert isinstance(detector.backbone, TimmFeatures) and not detector.training
    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) > 20
    for norm in norms:
        assert norm.weight.std() > 0.1 and norm.bias.std() > 0.01
        assert norm.momentum != 1
    assert sum(norm.running_var.sub(1).abs().max() > 0.01 for norm in norms) > 20
    with torch.no_grad():
        maps = detector(torch.randn(1, 3, 64, 64), mode='tensor')
    for level in sum(maps, []):
        assert level.isfinite().all() and 1e-3 < level.std() < 1e3
    twice = build_detector(SMALLEST).state_dict()
    assert all(twice[k].equal(v) for k, v in detector.state_dict().items())
    assert isinstance(build_detector('nextvit_small.bd_in1k').backbone, NextViT)


def end_at_once(name: str, size: int, path: Path) -> None:
    os._exit(3)


def fail(name: str, size: int, path: Path) -> None:
    raise UserError('no such op', file=path)


def wait(name: str, size: int, path: Path) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    'export, limit, reason',
    [
        (wait, 0.05, 'its export was ended after 0.05 s (--limit)'),
        (fail, 30, 'not exported: a.onnx: no such op'),
        (end_at_once, 30, 'not exported: the process ended with exit code 3'),
        (lambda *args: None, 30, ''),
    ],
)
def test_exports_have_a_process_each(monkeypatch, export, limit, reason):
    monkeypatch.setattr(backbone_table, 'METHOD', 'fork')
    monkeypatch.setattr(backbone_table, 'export_here', export)
    start = time.monotonic()
    assert export_within('any', 64, Path('a.onnx'), limit) == (Path('a.onnx'), reason)
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


def test_what_fails_leaves_the_rest(monkeypatch):
    """Torch stays; a runtime that gives other numbers does not count."""
    networks = {
        'open_torch': lambda candidates: lambda images: [images, images],
        'open_onnx': lambda path, threads: lambda images: [images + 1, images],
        'open_openvino': lambda path, threads: int('not there'),
    }
    for name, opener in networks.items():
        monkeypatch.setattr(backbone_table, name, opener)
    for name in ('Candidates', 'build_detector'):
        monkeypatch.setattr(backbone_table, name, lambda x: x)
    images = np.zeros((1, 3, 4, 4), np.float32)
    turn = take_turn('any', Export(Path('a.onnx'), ''), images)
    assert set(turn.seconds) == {TORCH}
    onnx, openvino = turn.reasons
    assert onnx == 'ONNX Runtime: boxes differ from those of torch by 1'
    assert openvino.startswith('OpenVINO: ValueError: invalid literal')
    turn = take_turn('any', Export(Path('a.onnx'), 'too slow'), images)
    assert set(turn.seconds) == {TORCH} and turn.reasons == ['too slow']


def test_differences():
    zero = np.zeros(3)
    nothing = [zero, zero]

    def explain(output, reference=nothing, again=nothing):
        return explain_difference(output, reference, lambda: again)

    assert explain([zero + 0.05, zero + 5e-4]) == ''
    assert 'scores differ' in explain([zero, zero + 0.01])
    assert 'boxes differ' in explain([zero + np.nan, zero])
    assert explain(Failure('why')) == 'why'
    assert explain([zero + 1, zero], again=[zero + 0.6, zero]) == ''
    assert explain([zero + 1, zero + 0.01], again=[zero + 0.6, zero + 0.006]) == ''
    for other in ([zero + 0.4, zero], [zero + np.nan, zero], Failure('why')):
        assert 'boxes differ' in explain([zero + 1, zero], again=other)
    for output in (np.nan, np.inf, 40):  # however far torch is from itself
        for other in (9, 1e6, np.inf):
            again = [zero + other, zero]
            assert 'boxes differ' in explain([zero + output, zero], again=again)
    with pytest.raises(ValueError):
        explain([zero, zero, zero])


def test_a_row_has_the_medians_of_all_rounds(monkeypatch):
    monkeypatch.setattr(backbone_table, 'build_detector', lambda name: int('no maps'))
    turns = [
        Turn({TORCH: 3, ONNX: 1}, ['a']),
        Turn({TORCH: 9}, ['a', 'b']),
        Turn({TORCH: 4, ONNX: 1}, ['a']),
    ]
    row = make_row('any', 64, turns)
    assert row == BackboneRow('any', 0, 0, {TORCH: 4}, ['a', 'b'])


def test_published_accuracies_are_of_timms_weights():
    assert len(MODELS) == 12 and check_models(MODELS) == list(MODELS)
    assert all(find_accuracy(name) for name in MODELS)
    assert check_models([*ACCURACIES]) == list(ACCURACIES)
    assert find_accuracy('resnet50.tv_in1k') == (76.156, 224)
    assert find_accuracy('resnet50') == find_accuracy('resnet50.a1_in1k')
    assert find_accuracy('resnet50.ra_in1k') is find_accuracy(SMALLEST) is None


def test_table():
    seconds = {TORCH: 0.5, OPENVINO: 0.25}
    rows = [
        BackboneRow('resnet50.a1_in1k', 31_200_000, 25_040_000_000, seconds, []),
        BackboneRow(SMALLEST, 0, 0, {}, ['a', 'b']),
    ]
    table = make_backbone_table(rows, 640)
    assert table.rows == [
        ['resnet50.a1_in1k', '31.2', '25.0', '500', '', '250', '80.4 (224)', ''],
        [SMALLEST, '', '', '', '', '', '', 'a; b'],
    ]
    assert len(table.columns) == 8
    assert table.to_markdown().splitlines()[-1].startswith('Top-1 is published')
