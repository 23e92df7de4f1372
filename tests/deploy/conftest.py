"""A trained checkpoint and its exports, which the tests here share."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import onnx as our_onnx
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.export import Options, Report, export

import cv2
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.datasets import yolov5_collate
from mmyolo.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import TINY
from tests.helpers.commands import fresh_process_state, run_here
from tests.helpers.lively_detectors import SHALLOW, demo_images
from tests.helpers.tiny_run import write_tiny_run

STEPS = 60


def train(cfg: Config) -> dict:
    """Learns the four validation images by heart; returns a checkpoint."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    data = dict(cfg.val_dataloader.dataset, test_mode=False)
    dataset = DATASETS.build(data)
    batch = yolov5_collate([dataset[i] for i in range(len(dataset))])
    boxes = batch['data_samples']['bboxes_labels']
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for m in model.modules():
        if isinstance(m, _BatchNorm):
            m.momentum = 1.0  # the statistics of the only batch
    for _ in range(STEPS):
        inputs = model.data_preprocessor(
            dict(
                inputs=batch['inputs'].clone(),
                data_samples=dict(bboxes_labels=boxes.clone(), img_metas=[]),
            ),
            True,
        )
        loss, _ = model.parse_losses(model(**inputs, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    meta = dict(dataset_meta=dict(cfg.val_dataloader.dataset.metainfo))
    return dict(state_dict=model.state_dict(), meta=meta)


@pytest.fixture(scope='session')
def user(tmp_path_factory) -> Path:
    """A folder of no relation to the repository, with a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('user')
    config = write_tiny_run(folder)
    text = config.read_text()
    assert str(TINY['depths']) in text
    config.write_text(text.replace(str(TINY['depths']), str(SHALLOW['depths'])))
    init_default_scope('mmyolo')
    torch.save(train(Config.fromfile(config)), folder / 'best.pth')
    wide = folder / 'wide'  # images that are letterboxed
    wide.mkdir()
    for i, image in enumerate(demo_images((40, 64), (64, 48), (30, 90))):
        cv2.imwrite(str(wide / f'{i}.png'), image)
    (folder / 'empty').mkdir()
    return folder


@pytest.fixture(scope='session')
def converted_once(user) -> Iterator[None]:
    """Conversion to ONNX takes long: networks that compute the same share it."""
    build_network, networks = our_onnx.build_network, {}

    def fingerprint(candidates: Candidates) -> str:
        generator = torch.Generator().manual_seed(0)
        shape = 1, candidates.image_channels, 64, 64
        images = 255 * torch.rand(shape, generator=generator)
        with torch.no_grad():
            outputs = candidates(images)
        content = b''.join(values.numpy().tobytes() for values in outputs)
        return hashlib.sha256(content).hexdigest()

    def build_once(candidates: Candidates, **shape: object):
        key = candidates.dtype, json.dumps(shape), fingerprint(candidates)
        if key not in networks:
            networks[key] = build_network(candidates, **shape)
        return networks[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_onnx, 'build_network', build_once)
        yield


@pytest.fixture
def here(user, converted_once, tmp_path, monkeypatch) -> Path:
    """A folder that one test may change, with the user's files."""
    for name in ('tiny.py', 'best.pth'):
        shutil.copy(user / name, tmp_path)
    for name in ('data', 'wide', 'empty'):
        (tmp_path / name).symlink_to(user / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_export(here, capfd) -> Callable[..., str]:
    """Runs the command on the checkpoint in :func:`here`; what it prints."""

    def run(*args: object, code: int = 0) -> str:
        args = 'tiny.py', 'best.pth', *args
        return run_here('export', *args, cwd=here, capfd=capfd, code=code)

    return run


@pytest.fixture
def export_here(here) -> Callable[..., Report]:
    """Exports the checkpoint in :func:`here` as the command does."""

    def run(to: str, **options: object) -> Report:
        with fresh_process_state():
            cfg = Config.fromfile('tiny.py')
            return export(cfg, 'best.pth', Options(to, **options))

    return run


@pytest.fixture(scope='session')
def exported(user, converted_once) -> Report:
    """The checkpoint in ONNX, which lies beside it."""
    with fresh_process_state():
        cfg = Config.fromfile(user / 'tiny.py')
        return export(cfg, str(user / 'best.pth'), Options('onnx'))
