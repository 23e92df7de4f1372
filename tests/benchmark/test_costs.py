"""How costs grow: what is found, trained on and timed, with a tiny backbone."""

import json
import os
import socket
import subprocess
from pathlib import Path

from mmnextvit.benchmark import costs
from mmnextvit.benchmark.costs import (
    LOADER,
    NETWORK,
    POSTPROCESSING,
    STEP,
    Cost,
    Load,
    make_config,
    make_costs_table,
    make_loader,
    make_truth,
    measure_axis,
    measure_processes,
    prepare_postprocessing,
    prepare_step,
    train_together,
)
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine.runner import build_model
from mmnextvit.utils.errors import UserError

import pytest
import torch

from tests.conftest import TINY
from tests.helpers.commands import fresh_process_state

SMALL = Load(classes=3, boxes=20, size=64)


@pytest.mark.slow
def test_as_many_boxes_are_found_as_the_load_has():
    """Each as one class; some of many are suppressed by others."""
    hit = torch.tensor(costs.HIT).sigmoid().item() ** 2
    for load in (SMALL._replace(boxes=1), SMALL):
        detector = build_model(make_config(TINY, load)).eval()
        (sample,) = prepare_postprocessing(detector, load)()
        found = sample.pred_instances
        assert load.boxes / 2 < len(found) <= load.boxes
        assert found.scores.allclose(torch.tensor(hit))
        assert found.labels.max() < 3
    assert len(set(found.labels.tolist())) == 3
    with pytest.raises(UserError, match='9999 boxes do not fit into 252 cells'):
        prepare_postprocessing(detector, SMALL._replace(boxes=9999))


def test_truth_has_boxes_inside_every_image():
    truth = make_truth(SMALL, 2)
    assert truth.shape == (40, 6)
    assert truth[:, 0].tolist() == [0] * 20 + [1] * 20
    assert set(truth[:, 1].tolist()) == {0, 1, 2}
    assert (truth[:, 2:4] <= truth[:, 4:]).all()
    assert truth[:, 2:].min() >= 0 and truth[:, 2:].max() <= 64
    assert truth[:, 2:].std() > 10


@pytest.mark.slow
def test_a_step_brings_gradients_of_the_truth():
    """More boxes, other gradients; the same images again, the same ones."""
    norms = []
    for boxes in (1, 1, 50):
        torch.manual_seed(0)
        load = SMALL._replace(boxes=boxes)
        detector = build_model(make_config(TINY, load))
        prepare_step(detector, load, 2)()
        gradients = [p.grad for p in detector.parameters() if p.requires_grad]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        norms.append(sum(g.norm().item() for g in gradients))
    assert norms[0] == pytest.approx(norms[1])
    assert norms[2] != pytest.approx(norms[0], rel=1e-3)


@pytest.mark.slow
def test_an_axis(monkeypatch):
    """Times are of an image: a step has several."""
    monkeypatch.setattr(
        costs, 'time_in_turn', lambda runs, rounds: {k: 1.0 + len(k) for k in runs}
    )
    loads = {5: Load(5, 2, 64), 10: Load(10, 2, 64)}
    parts = NETWORK, POSTPROCESSING, STEP
    assert measure_axis('classes', loads, parts, TINY, 1) == [
        Cost('classes', 5, {NETWORK: 2, POSTPROCESSING: 2, STEP: 2 / costs.BATCH}),
        Cost('classes', 10, {NETWORK: 3, POSTPROCESSING: 3, STEP: 3 / costs.BATCH}),
    ]


@pytest.mark.slow
def test_a_loader_has_all_images_in_mosaics(tmp_path: Path):
    make_demo_data(tmp_path, train=8, val=1, size=64, seed=0)
    with fresh_process_state():
        loader = make_loader(str(tmp_path), 64, 0)
        (batch,) = loader
    assert batch['inputs'].shape == (8, 3, 64, 64)
    names = [t['type'] for t in make_config(TINY, SMALL).train_pipeline]
    assert any('Mosaic' in name for name in names)
    assert loader.num_workers == 0 and len(batch['data_samples']['bboxes_labels']) > 8


@pytest.mark.slow
def test_processes_train_together(monkeypatch, capsys):
    """A group of one, in this process: what is printed is a step's median."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        host, port = server.getsockname()
    variables = dict(RANK=0, WORLD_SIZE=1, MASTER_ADDR=host, MASTER_PORT=port)
    for name, value in variables.items():
        monkeypatch.setitem(os.environ, name, str(value))
    settings = dict(arch=TINY, load=SMALL._asdict(), batch=1, threads=1, rounds=3)
    seconds = iter([90, 80, 3, 1, 2])

    def time_call(step):
        step()
        return next(seconds)

    monkeypatch.setattr(costs, 'time_call', time_call)
    with fresh_process_state():
        train_together(settings)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == 2


def test_processes_share_images_and_threads(monkeypatch):
    asked = []

    def run(words, **kwargs):
        asked.append((words, json.loads(words[-1])))
        return subprocess.CompletedProcess(words, 0, 'noise\n0.5\n', '')

    monkeypatch.setattr(subprocess, 'run', run)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    assert measure_processes('small', 64, 3) == [
        Cost('processes', n, {STEP: 0.5 / costs.BATCH}) for n in (1, 2)
    ]
    for count, (words, settings) in zip((1, 2), asked, strict=True):
        assert f'--nproc_per_node={count}' in words
        assert settings['batch'] * count == costs.BATCH
        assert settings['threads'] * count == 8 and settings['rounds'] == 3

    def fail(words, **kwargs):
        return subprocess.CompletedProcess(words, 1, '', 'Traceback\nOops: no port')

    monkeypatch.setattr(subprocess, 'run', fail)
    with pytest.raises(UserError, match='1 processes did not train: Oops: no port'):
        measure_processes('small', 64, 3)


def test_table():
    found = [
        Cost('classes', 1203, {NETWORK: 0.1, POSTPROCESSING: 0.02, STEP: 1}),
        Cost('workers', 2, {LOADER: 0.003}),
    ]
    table = make_costs_table(found, 'small', 320)
    assert table.rows == [
        ['classes: 1,203', '100.0', '20.0', '1000.0', ''],
        ['workers: 2', '', '', '', '3.0'],
    ]
    assert 'ms an image of 320x320' in table.to_markdown().splitlines()[-1]
