"""Weights of every source into a model: whole and equal, or an error that says why."""

import argparse
import contextlib
import errno
import hashlib
import os
import re
import sys

from mmnextvit import NextViT
from mmnextvit.cli import convert_weights
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.contents import extract_weights
from mmnextvit.weights.conversion import write_state
from mmnextvit.weights.layouts import FORMATS, to_timm, to_yolov5
from mmnextvit.weights.loading import adapt, check
from mmnextvit.weights.sources import get_download_folder

import pytest
import timm
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from mmyolo.registry import MODELS
from safetensors.torch import save_file

from tests.helpers.commands import run_here
from tests.helpers.full_disk import limit_file_size
from tests.helpers.tiny_run import ROOT, run_command, run_tool, write_tiny_run
from tests.helpers.yolov5_neck import YAML
from tests.helpers.yolov5_pickle import ANCHORS, write_yolov5_checkpoint

TYPES = ['NextViT', *(row[2] for row in YAML), 'Detect']


@pytest.fixture
def log(monkeypatch):
    """The receipts that go to the log."""
    receipts = []

    def handle(record):
        if 'sha256' in record.getMessage():
            receipts.append(record.getMessage())

    monkeypatch.setattr(MMLogger.get_instance('weights'), 'handle', handle)
    return receipts


@pytest.fixture
def detector(load_config, tiny, lively):
    """Builds detectors of three classes with a tiny backbone."""

    def build(seed: int | None = None, **backbone) -> torch.nn.Module:
        cfg = load_config('yolov5_nextvit_s').model
        cfg.backbone.update(arch=tiny, **backbone)
        cfg.bbox_head.head_module.num_classes = 3
        model = MODELS.build(cfg).eval()
        return model if seed is None else lively(model, seed)

    return build


def load(path, model, **options):
    content = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    receipt = adapt(content, model, **options)
    model.load_state_dict(content['state_dict'], strict=False)
    return receipt


def outputs(model):
    """Raw maps and, after NMS, boxes for one image."""
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    meta = dict(ori_shape=(64, 96), img_shape=(64, 96), scale_factor=(1.0, 1.0))
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        detections = model.predict(x, [DetDataSample(metainfo=meta)])[0].pred_instances
        return [m for level in model(x) for m in level], detections


@pytest.mark.slow
@pytest.mark.parametrize('ema', [False, True])
def test_a_yolov5_checkpoint_gives_the_same_maps_and_boxes(tmp_path, detector, ema):
    trained = detector(seed=1).half().float()  # as YOLOv5 saves them
    state = to_yolov5(trained.state_dict())
    stale = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    path = write_yolov5_checkpoint(
        tmp_path / 'best.pt',
        stale if ema else state,
        TYPES,
        ema=state if ema else False,
    )
    fresh = detector()
    receipt = load(path, fresh)
    assert receipt.fit.complete and receipt.layout == 'yolov5' and not receipt.notes
    (maps, detections), (expected_maps, expected) = outputs(fresh), outputs(trained)
    for a, b in zip(maps, expected_maps, strict=True):
        assert a.dtype == torch.float32
        assert ((a - b).abs().max() / b.abs().max()) < 1e-5
    assert len(detections) == len(expected) > 10
    assert torch.equal(detections.labels, expected.labels)
    torch.testing.assert_close(detections.bboxes, expected.bboxes)


@pytest.mark.slow
def test_what_else_differs_from_a_yolov5_checkpoint_is_said(tmp_path, detector):
    model = detector()
    anchors = [[(1, 2), (3, 4), (5, 6)], *ANCHORS[1:]]
    path = write_yolov5_checkpoint(
        tmp_path / 'x.pt', to_yolov5(model.state_dict()), TYPES, anchors=anchors,
        strides=(8, 16, 64), names={0: 'a', 1: 'c', 2: 'b'}, eps=1e-5,
    )  # fmt: skip
    notes = '\n'.join(load(path, model, classes=('a', 'b', 'c')).notes)
    assert re.search(r'strides \[8, 16, 64\] in the file, \[8, 16, 32\] in', notes)
    assert re.search(
        r'anchors \[\[\[1.0, 2.0\].* in the file, \[\[\[10.0, 13.0\]', notes
    )
    assert re.search(r"classes \['a', 'c', 'b'\] in the file, \['a', 'b', 'c'\]", notes)
    assert re.search(r'eps \[1e-05\] in the file, \[0.001\] in the model', notes)


@pytest.mark.slow
def test_the_receipt(tmp_path, detector, log):
    model = detector()
    path = tmp_path / 'epoch_1.pth'
    state = model.state_dict()
    torch.save(dict(state_dict=state, meta={}), path)
    receipt = load(path, model)
    check(receipt, None)
    text = log[-1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    total = sum('num_batches' not in k for k in state)
    assert f'{path}: mmnextvit, sha256 {digest[:16]}' in text
    assert f"{total} of the model's {total} tensors fit" in text
    stem = sum(k.startswith('backbone.stem') and 'num_b' not in k for k in state)
    assert f'stem {stem}/{stem}' in text
    for part in ('stage 0', 'stage 3', 'norm', 'neck', 'bbox_head'):
        assert re.search(rf'{part} (\d+)/\1\b', text) or 'features' in text


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['safetensors', 'bin', 'pth'])
@pytest.mark.parametrize('arch', ['small', 'base'])
def test_a_timm_checkpoint_gives_timms_maps(tmp_path, arch, suffix, lively, log):
    theirs = lively(timm.create_model(f'nextvit_{arch}')).eval()
    path = tmp_path / f'model.{suffix}'
    if suffix == 'safetensors':
        save_file(theirs.state_dict(), path)
    else:
        torch.save(theirs.state_dict(), path)
    ours = NextViT(arch, init_cfg=dict(type='Pretrained', checkpoint=str(path))).eval()
    ours.init_weights()
    assert re.search(r"(\d+) of the model's \1 tensors fit", log[-1])
    for part in ('stem', 'stage 0', 'stage 1', 'stage 2', 'stage 3', 'norm'):
        assert re.search(rf'{part} (\d+)/\1\b', log[-1]), part
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, last = ours(x), theirs.forward_features(x)
        features = timm.create_model(f'nextvit_{arch}', features_only=True).eval()
        names = {k.replace('stages.', 'stages_').replace('stem.', 'stem_'): v
                 for k, v in theirs.state_dict().items()}  # fmt: skip
        kept = {k: v for k, v in names.items() if not k.startswith(('norm.', 'head.'))}
        features.load_state_dict(kept)
        for a, b in zip((*maps[:3], maps[3]), (*features(x)[:3], last), strict=True):
            assert ((a - b).abs().max() / b.abs().max()) < 1e-5


def pretrained(path, arch='small', partial=None, **options):
    cfg = dict(type='Pretrained', checkpoint=str(path))
    if partial is not None:
        cfg['partial'] = partial
    model = NextViT(arch, init_cfg=cfg, **options)
    model.init_weights()
    return model


@pytest.mark.slow
def test_official_files(tmp_path, lively, log):
    """Classification, and Mask R-CNN, which has no final norm."""
    source = lively(NextViT('small'))
    state = source.state_dict()
    head = {
        'proj_head.0.weight': torch.ones(1000, 1024),
        'proj_head.0.bias': torch.ones(1000),
    }
    torch.save(dict(model={**state, **head}), tmp_path / 'cls.pth')
    loaded = pretrained(tmp_path / 'cls.pth')
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    assert 'official' in log[-1]

    detection = {
        f'backbone.{k}': v for k, v in state.items() if not k.startswith('norm.')
    }
    others = {'neck.lateral_convs.0.conv.weight': torch.ones(1)}
    path = tmp_path / 'mask.pth'
    torch.save(dict(state_dict={**detection, **others}, meta={}), path)
    loaded = pretrained(path, final_norm=False)
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(ValueError, match='not in the file: norm.weight') as error:
        pretrained(path)
    assert 'norm 0/4' in str(error.value) and 'partial=True' in str(error.value)
    partly = pretrained(path, partial=True)
    assert torch.equal(partly.stem[0].conv.weight, source.stem[0].conv.weight)
    assert 'not in the file: norm.weight' in log[-1]

    # Fewer stages than the file has are filled whole.
    fewer = pretrained(tmp_path / 'cls.pth', out_indices=(0, 1))
    assert all(torch.equal(v, state[k]) for k, v in fewer.state_dict().items())


@pytest.mark.slow
def test_another_arch_is_refused_with_counts(tmp_path):
    torch.save(NextViT('base').state_dict(), tmp_path / 'base.pth')
    with pytest.raises(ValueError) as error:
        pretrained(tmp_path / 'base.pth', 'small')
    text = str(error.value)
    assert 'base.pth: the weights do not fit, and all of the backbone must' in text
    fit, total = map(
        int, re.search(r"(\d+) of the model's (\d+) tensors", text).groups()
    )
    assert 0 < fit < total
    assert re.search(r'stage 2 (\d+)/(\d+)', text)
    assert "(arch 'base')" in text and "(arch 'small')" in text
    with pytest.raises(
        ValueError,
        match='resnet.pth: the file holds no weights for .*conv1.weight',
    ):
        path = tmp_path / 'resnet.pth'
        torch.save({'conv1.weight': torch.ones(1)}, path)
        pretrained(path)


@pytest.mark.slow
def test_a_partial_load_leaves_the_rest_alone(tmp_path):
    state = NextViT('small').state_dict()
    state['stem.0.conv.weight'] = torch.ones(1, 1, 1, 1)
    torch.save(state, tmp_path / 'odd.pth')
    model = pretrained(tmp_path / 'odd.pth', partial=True)
    assert model.stem[0].conv.weight.shape == (64, 3, 3, 3)
    assert torch.equal(model.norm.weight, state['norm.weight'])


SMALL = 'nextvit_small.bd_ssld_6m_in1k'


@pytest.mark.slow
@pytest.mark.parametrize(
    'source, file',
    [
        (f'timm://{SMALL}', f'{SMALL}.safetensors'),
        (f'hf://timm/{SMALL}', f'timm--{SMALL}--model.safetensors'),
        ('hf://me/mine:a/b.pth', 'me--mine--a--b.pth'),
        ('http://127.0.0.1:9/weights/w.pth?x=1', 'w.pth'),
    ],
)
def test_what_cannot_be_fetched_says_where_to_put_it(
    source, file, tmp_path, monkeypatch
):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError) as error:
        pretrained(source)
    place = get_download_folder() / file
    assert f'{source}: the file could not be fetched (' in str(error.value)
    assert f'put it at {place},' in str(error.value) and '\n' not in str(error.value)
    ours = NextViT('small').state_dict()
    state = to_timm({f'backbone.{k}': v for k, v in ours.items()})
    save_file(state, place) if place.suffix == '.safetensors' else torch.save(
        state, place
    )
    assert torch.equal(pretrained(source).norm.weight, ours['norm.weight'])


@pytest.mark.slow
def test_addresses_that_name_nothing():
    hint = 'timm has no such weights: did you mean nextvit_small.bd_'
    with pytest.raises(ValueError, match=f'timm://nextvit_small.nothing: {hint}'):
        pretrained('timm://nextvit_small.nothing')
    with pytest.raises(ValueError, match='hf://nothing: write hf://OWNER/NAME'):
        pretrained('hf://nothing')


@pytest.mark.slow
def test_weights_through_the_tools(tmp_path, detector, capfd):
    """YOLOv5's file starts a training, resumes none; the rest is said in one line."""
    config = write_tiny_run(tmp_path)
    path = write_yolov5_checkpoint(
        tmp_path / 'best.pt', to_yolov5(detector(seed=1).state_dict()), TYPES
    )
    epochs = ['--cfg-options', 'train_cfg.max_epochs=1', f'load_from={path}']
    here = dict(cwd=tmp_path, capfd=capfd)
    printed = run_here('train', config, *epochs, **here)
    assert f'{path}: YOLOv5, sha256' in printed
    classes = "classes ['a', 'b', 'c'] in the file, ['circle', 'square', 'triangle'] in"
    assert classes in printed
    assert '  classes: kept none; new: circle, square, triangle; left out: 3' in printed
    assert re.search(r"(\d+) of the model's \1 tensors fit", printed)
    resume = ['--resume', path, '--work-dir', 'other']
    printed = run_here('train', config, *resume, **here, code=1)
    assert 'holds weights but no training state' in printed.splitlines()[-1]
    assert 'Traceback' not in printed

    init_cfg = 'model.backbone.init_cfg'
    weights = [
        f'{init_cfg}.type=Pretrained',
        f'{init_cfg}.checkpoint=http://x.invalid/w',
    ]
    other = ['--work-dir', 'none', '--cfg-options', *weights]
    printed = run_here('train', config, *other, **here, code=1)
    assert 'could not be fetched' in printed.splitlines()[-1]
    assert not list((tmp_path / 'none').glob('*.pth')) and 'Epoch(' not in printed


@pytest.fixture
def best(tmp_path, detector):
    """A detector, and a YOLOv5 checkpoint ``best.pt`` of its weights."""
    model = detector(seed=2).half().float()
    write_yolov5_checkpoint(tmp_path / 'best.pt', to_yolov5(model.state_dict()), TYPES)
    return model


@pytest.mark.parametrize(
    'names',
    [
        ['model.N.x'],
        ['model.0.x', 'model.N.x'],
        ['stem.0.x', 'stages.N.blocks.0.x'],
        [0, 1],
        ['features.0.x', 'features.N.x'],
    ],
)
def test_odd_names_are_no_bugs(names):
    """Python refuses to convert a number of thousands of digits."""
    names = [n.replace('N', '9' * 5000) if isinstance(n, str) else n for n in names]
    content = {name: torch.ones(1) for name in names}
    with contextlib.suppress(UserError):  # and nothing else
        ours = extract_weights(content, 'x.pth').state
        for layout in FORMATS.values():
            layout.from_ours(ours)
    for prefix in ('backbone.features', 'neck.rows'):
        for number in ('x', '9' * 5000):
            for layout in FORMATS.values():
                with contextlib.suppress(UserError):
                    layout.from_ours({f'{prefix}.{number}.x': torch.ones(1)})


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
@pytest.mark.parametrize('numel', [100, 100_000])  # fails on closing, and before
def test_a_full_disk_is_an_error_of_the_system(tmp_path, name, numel):
    """torch and safetensors raise their own, which would end in a traceback."""
    state = {'x': torch.ones(numel)}
    with limit_file_size(200), pytest.raises(OSError) as error:
        write_state(state, tmp_path / name, 'ours')
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / name)
    assert not any(tmp_path.iterdir())
    write_state(state, tmp_path / name, 'ours')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / name))
    assert content.get('state_dict', content)['x'].numel() == numel


@pytest.mark.slow
def test_convert_weights_as_a_script(tmp_path, best):
    printed = run_tool('convert_weights.py', 'best.pt', 'ours.pth', cwd=tmp_path)
    assert 'best.pt: YOLOv5' in printed and 'anchors' in printed
    ours = torch.load(tmp_path / 'ours.pth')['state_dict']
    assert all(torch.equal(v, ours[k]) for k, v in best.state_dict().items())


@pytest.mark.slow
def test_convert_weights(tmp_path, best, capfd):
    here = dict(cwd=tmp_path, capfd=capfd)
    printed = run_here('convert_weights', 'best.pt', 'ours.pth', **here)
    assert 'best.pt: YOLOv5' in printed and 'anchors' in printed
    written = torch.load(tmp_path / 'ours.pth')
    ours = written['state_dict']
    assert all(torch.equal(v, ours[k]) for k, v in best.state_dict().items())
    assert written['meta'] == dict(dataset_meta=dict(classes=['a', 'b', 'c']))
    back = ['ours.pth', 'back.safetensors', '--to', 'yolov5']
    run_here('convert_weights', *back, **here)
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'back.safetensors'))
    adapt(content, best)
    assert all(torch.equal(v, ours[k]) for k, v in content['state_dict'].items())

    # what goes wrong is one message, a code, and no file
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html><html>Quota</html>')
    torch.save({'model.0.x': torch.ones(1)}, tmp_path / 'empty.pth')
    files = sorted(tmp_path.iterdir())
    before = (tmp_path / 'ours.pth').read_bytes()
    for arguments, message in (
        (['page.pth', 'dst.pth'], 'page.pth: the file is a web page'),
        (['nowhere.pth', 'dst.pth'], 'nowhere.pth: the file does not exist'),
        (['ours.pth', 'dst.pth', '--to', 'timm'], 'none of .*small'),
        (['ours.pth', 'ours.pth'], 'ours.pth: this exists, and nothing is overwritten'),
        (['empty.pth', 'dst.pth', '--to', 'official'], 'nothing that the layout offi'),
        (['ours.pth', 'dst.pth', '--config', 'no.py'], 'config no.py does not exist'),
    ):
        printed = run_here('convert_weights', *arguments, **here, code=1)
        assert 'Traceback' not in printed
        assert re.search(message, printed.strip().splitlines()[-1])
        assert sorted(tmp_path.iterdir()) == files
        assert (tmp_path / 'ours.pth').read_bytes() == before


def test_every_layout_can_be_asked_for():
    parser = argparse.ArgumentParser()
    convert_weights.add_arguments(parser)
    (to,) = (action for action in parser._actions if action.dest == 'to')
    assert sorted(to.choices) == sorted(FORMATS)


@pytest.mark.slow
def test_loaders_are_replaced_by_one_function_only():
    """Importing what reads and converts weights changes nothing; registering does."""
    script = """
import sys
sys.modules['mmnextvit._register'] = type(sys)('mmnextvit._register')
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader, checkpoint

def state():
    schemes = dict(CheckpointLoader._schemes)
    return schemes, checkpoint.load_from_http, WEIGHT_INITIALIZERS.get('Pretrained')

before = state()
from mmnextvit.weights import conversion, loading
assert state() == before
loading.register_loaders()
after = state()
assert after[2] is loading.Pretrained and after[1].__module__.startswith('mmnextvit')
assert {'timm://', 'hf://'} == after[0].keys() - before[0].keys()
assert not any(load is before[0].get(name) for name, load in after[0].items())
"""
    run_command(sys.executable, '-c', script, cwd=ROOT, env=os.environ)
