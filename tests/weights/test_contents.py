"""What files say of names, sizes, anchors and classes is bounded, with one message."""

import re
import time

from mmnextvit import NextViT
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.contents import (
    extract_weights,
    read_best_scores,
    read_dataset_meta,
)
from mmnextvit.weights.loading import adapt, check
from mmnextvit.weights.reader import read_checkpoint
from mmnextvit.weights.receipt import describe_differences

import pytest
import torch
from torch import nn

from tests.conftest import TINY
from tests.helpers.commands import run_here
from tests.helpers.tiny_run import write_tiny_run
from tests.helpers.yolov5_pickle import ANCHORS, write_yolov5_checkpoint

YOLOV5 = {
    'model.0.stem.0.conv.weight': torch.ones(4, 3, 3, 3),
    **{
        f'model.0.stem.0.norm.{name}': torch.ones(4)
        for name in ('weight', 'bias', 'running_mean', 'running_var')
    },
    'model.1.m.0.weight': torch.ones(24, 2, 1, 1),
    'model.1.m.0.bias': torch.ones(24),
}


def refuse(content, source='x.pth') -> str:
    """The message with which a file's weights are refused, within seconds."""
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        extract_weights(content, source)
    assert time.monotonic() - start < 5
    message = str(error.value)
    assert message.startswith(f'{source}: the file holds no weights for this model: ')
    assert '\n' not in message and len(message) < 500 and message.isprintable()
    return message


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    'name, shown',
    [
        (5, 'a tensor is called 5, which is no text'),
        (b'backbone.x', "called b'backbone.x', which is no text"),
        (('backbone', 1), r"called ('backbone', 1), which is no text"),
        (10**5000, 'called a very long int, which is no text'),
        (None, 'called None, which'),
        ('backbone.\x1b[31mred', r'the name backbone.\x1b[31mred'),
        ('backbone.a\nb', r'the name backbone.a\nb'),
        ('backbone.\ud800', r'the name backbone.\ud800'),
        ('backbone.\u202egnp', r'the name backbone.\u202egnp'),
        ('backbone.' + 'x' * 10**6, 'the name backbone.xxxxx'),
        ('stages.999999999.blocks.999999999.\x07', r'999999999.\x07'),
    ],
    ids=range(11),  # pytest writes no number of 5,000 digits either
)
@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_names_that_are_none(name, shown, key):
    state = {'backbone.stem.0.conv.weight': torch.ones(1), name: torch.ones(1)}
    assert shown in refuse({key: state} if key else state)


def test_names_of_a_whole_model_that_are_none(tmp_path):
    model = nn.Module()
    model.model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for table, name in (('_parameters', 'a\x1b]0;x\x07'), ('_modules', 5)):
        value = nn.Parameter(torch.ones(1)) if table == '_parameters' else nn.ReLU()
        getattr(model.model[0], table)[name] = value
        torch.save({'model': model}, tmp_path / 'x.pt')
        del getattr(model.model[0], table)[name]
        message = refuse(read_checkpoint(tmp_path / 'x.pt'))
        assert 'no text' in message if name == 5 else r'a\x1b]0;x\x07' in message


@pytest.mark.slow
@pytest.mark.parametrize(
    'names, layout',
    [
        (['stem.0.x', 'stages.999999999.blocks.999999999.x'], 'timm'),
        (['stem.0.x', *(f'stages.{i}.blocks.{i}.x' for i in range(100_000))], 'timm'),
        (['stem.0.x', 'features.999999999.x'], 'official'),
        (['backbone.features.999999999.x'], 'ours'),
        (['model.0.x', 'model.999999999.m.0.x'], 'yolov5'),
    ],
)
def test_huge_numbers_and_many_of_them_in_names(names, layout):
    """Nothing counts up to a number out of a file."""
    start, one = time.monotonic(), torch.ones(1)
    content = {'state_dict': dict.fromkeys(names, one)}
    assert extract_weights(content, 'x.pth').layout == layout
    if len(names) < 10:
        receipt = adapt(content, NextViT(TINY))
        with pytest.raises(UserError, match='the weights do not fit'):
            check(receipt, '')
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_messages_of_commands_are_printable(tmp_path, capfd):
    """Whatever a name of a file holds, a terminal gets it escaped."""
    config = write_tiny_run(tmp_path)
    evil = '\x1b]0;owned\x07\ud800\x9b31m'
    image = next((tmp_path / 'data/val').iterdir())
    tensor = torch.ones(1)
    contents = [
        {'state_dict': {f'backbone.{evil}': tensor}},
        {'state_dict': {f'model.0.{evil}': tensor}},
        {evil: tensor},
        {'state_dict': {'backbone.x': tensor}, 'meta': {'dataset_meta': {evil: 1}}},
        {'state_dict': {f'stem.{evil}': tensor, f'stages.{evil}': tensor}},
    ]
    commands = [
        ('convert_weights', 'x.pth', 'y.pth', '--to', 'timm'),
        ('predict', config, 'x.pth', image),
        ('test', config, 'x.pth'),
        ('train', config, '--cfg-options', 'load_from=x.pth'),
    ]
    for i, content in enumerate(contents):
        torch.save(content, tmp_path / 'x.pth')
        for command, *args in commands[: 2 if i else 4]:
            printed = run_here(command, *args, cwd=tmp_path, capfd=capfd, code=1)
            assert not re.search('[\x07\x1b\x80-\x9f\ud800]', printed), printed
            assert 'Traceback' not in printed
    printed = run_here('convert_weights', evil[:-5] + '://x', 'y', cwd=tmp_path,
                       capfd=capfd, code=1)  # fmt: skip
    assert r'\x1b]0;owned' in printed and '\x1b' not in printed


# --------------------------------------------------------------------------- sizes


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_many_views_of_one_storage(tmp_path, dtype):
    """2,000 of them would make 40 GB out of 10 MB when they are widened."""
    whole = torch.zeros(5_000_000, dtype=dtype)
    state = {f'backbone.{i}.weight': whole[i:] for i in range(2000)}
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    assert (tmp_path / 'x.pth').stat().st_size < 11e6
    message = refuse(read_checkpoint(tmp_path / 'x.pth'))
    assert 'its 2,000 tensors share 10,000,000 bytes, and would take 39,9' in message


def test_one_tensor_under_many_names(tmp_path):
    """The pickle's memo does without views."""
    whole = torch.zeros(1_000_000, dtype=torch.float16)
    state = dict.fromkeys((f'backbone.{i}.weight' for i in range(2000)), whole)
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    message = refuse(read_checkpoint(tmp_path / 'x.pth'))
    assert 'its 2,000 tensors share 2,000,000 bytes' in message


def test_shared_weights_of_real_models_are_read():
    """A tied weight, a small table in every layer, half precision widened."""
    table, tied = torch.zeros(1000), torch.zeros(20_000_000, dtype=torch.float16)
    state = {f'backbone.{i}.table': table for i in range(1000)}
    state |= {'backbone.a': tied, 'backbone.b': tied}
    weights = extract_weights({'state_dict': state}, 'x.pth')
    assert len(weights.state) == 1002


# ------------------------------------------------------- what YOLOv5 says of itself


def yolov5_content(path, **changes):
    options = {'anchors': ANCHORS, 'strides': (8, 16, 32), 'half': False, **changes}
    write_yolov5_checkpoint(path, YOLOV5, ['NextViT', 'Detect'], **options)
    return read_checkpoint(path)


def with_first_anchor(width):
    return [[(width, 13), *ANCHORS[0][1:]], *ANCHORS[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(anchors=with_first_anchor(float('nan'))), 'anchors .*: nan is among'),
        (dict(anchors=with_first_anchor(0)), 'anchors .*: 0 is among'),
        (dict(anchors=with_first_anchor(-3)), 'anchors .*: -3 is among'),
        (dict(anchors=with_first_anchor(float('inf'))), 'anchors .*: inf is among'),
        (dict(anchors=with_first_anchor(1e30)), r'anchors .*: 1e\+30 is among'),
        (dict(anchors=[[(1, 2)] * 100_000] * 3), 'anchors are 100,000 x 2 numbers'),
        (dict(anchors=[[(1, 2, 3)]] * 3), 'anchors are 1 x 3 numbers'),
        (dict(strides=(8, 16, float('nan'))), r'strides are no.*3 levels, \[8.0, 16.0'),
        (dict(strides=(0, 16, 32)), 'strides are no numbers of pixels'),
        (
            dict(strides=[8] * 1000, anchors=[[(1, 2)]] * 1000),
            'strides .* 1,000 levels',
        ),
        (dict(eps=float('nan')), r'have no eps: \[nan\]'),
        (dict(eps=-1.0), r'have no eps: \[-1.0\]'),
        (dict(names=['a', '\x1b' * 2000]), r"a class is called '\\x1b\\x1b"),
        (dict(names=['x'] * 100_001), 'it has 100,001 classes'),
    ],
)
def test_yolov5_files_that_say_what_cannot_be(tmp_path, changes, message):
    assert re.search(message, refuse(yolov5_content(tmp_path / 'x.pt', **changes)))


def test_a_yolov5_file_that_says_what_can_be(tmp_path):
    content = yolov5_content(tmp_path / 'x.pt', names=['\x1b[31m', 'b'])
    metadata = extract_weights(content, 'x.pt').metadata
    numbered = yolov5_content(tmp_path / 'y.pt', names={1: 'b', 0: 'a', 2: 'c'})
    classes = extract_weights(numbered, 'y.pt').metadata['classes']
    assert classes == ['a', 'b', 'c']  # as the rows, not as they are written
    gaps = yolov5_content(tmp_path / 'z.pt', names={1: 'b', 5: 'a'})
    assert 'classes' not in extract_weights(gaps, 'z.pt').metadata
    torch.testing.assert_close(
        torch.tensor(metadata['anchors']), torch.tensor(ANCHORS).float()
    )
    (note,) = (
        n for n in describe_differences(metadata, nn.Module(), ['a']) if 'cl' in n
    )
    assert r"classes ['\x1b[31m', 'b'] in the file" in note and note.isprintable()
    many = dict(metadata, classes=['long name'] * 10_000)
    (note,) = (n for n in describe_differences(many, nn.Module(), ['a']) if 'cl' in n)
    assert len(note) < 500


@pytest.mark.parametrize(
    'meta, message',
    [
        ([1], r'meta.dataset_meta: this is \[1\], not a dict'),
        ('x', "this is 'x', not a dict"),
        (dict(dataset_meta=5), 'this is 5, not a dict'),
        (dict(dataset_meta={5: 1}), r'this is \{5: 1\}, not a dict'),
        (dict(dataset_meta=dict(classes=5)), 'meta.dataset_meta.classes: .* no list'),
        (dict(dataset_meta=dict(CLASSES='ab')), "dataset_meta.CLASSES: .*: 'ab'"),
        (dict(dataset_meta=dict(classes=[])), 'it has 0 classes'),
        (dict(dataset_meta=dict(classes=['a', 5])), 'a class is called 5'),
    ],
)
def test_classes_of_a_checkpoint_that_are_none(meta, message):
    with pytest.raises(UserError, match='^x.pth: meta.dataset_meta') as error:
        read_dataset_meta({'meta': meta}, 'x.pth')
    assert re.search(message, str(error.value))


def test_classes_of_a_checkpoint():
    meta = dict(classes=('a', 'b'), palette=None)
    assert read_dataset_meta({'meta': dict(dataset_meta=meta)}, 'x.pth') == meta
    for content in ({}, {'meta': None}, {'meta': {}}, {'meta': {'dataset_meta': None}}):
        assert read_dataset_meta(content, 'x.pth') == {}


# ----------------------------------------------------------------------------- NaN


@pytest.mark.slow
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
)
def test_weights_that_are_not_finite(bad, dtype):
    model = NextViT(TINY)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    names = ['norm.weight', 'norm.running_var']
    for name in names:
        state[name] = state[name].to(dtype)
        state[name].view(-1)[-1] = bad
    first = next(name for name in state if name in names)
    receipt = adapt({'state_dict': state}, model, 'x.pth')
    assert set(receipt.fit.not_finite) == set(names)
    wanted = f'x.pth: 2 of its tensors hold NaN or infinity, the first of them {first}:'
    for prefix, partial in ((None, False), ('', True)):
        with pytest.raises(UserError) as error:
            check(receipt, prefix, partial)
        assert str(error.value).startswith(wanted)


def test_infinity_that_a_model_is_built_with_may_stay():
    """As the ranges of an observer; but NaN may not."""

    def build():
        model = NextViT(TINY)
        model.register_buffer('lowest', torch.tensor([float('inf'), 1.0]))
        return model

    content = {'state_dict': build().state_dict()}
    assert adapt(content, build()).fit.not_finite == []
    content['state_dict']['lowest'] = torch.tensor([float('nan'), float('inf')])
    assert adapt(content, build()).fit.not_finite == ['lowest']


META = dict(dataset_meta=dict(CLASSES=('cat', 'dog')))


def test_best_scores_of_a_checkpoint():
    best = dict(all=0.4, classes={'cat': 1})
    content = dict(meta=META | dict(best_scores=best))
    assert read_best_scores(content, 'a.pth') == dict(all=0.4, classes={'cat': 1.0})
    for older in ({}, dict(meta=None), dict(meta=META)):
        assert read_best_scores(older, 'a.pth') is None


@pytest.mark.parametrize(
    ('best', 'message'),
    [
        (0.4, r'meta.best_scores: this is 0.4, not dict\('),
        (dict(all=0.4), 'meta.best_scores: this is'),
        (dict(classes={}), 'meta.best_scores.all: this is None, not a score'),
        (dict(all=2, classes={}), 'meta.best_scores.all: this is 2'),
        (dict(all=True, classes={}), 'meta.best_scores.all: this is True'),
        (dict(all=0.4, classes={'cat': 'x'}), r"best_scores.classes\['cat'\]: this is"),
        (dict(all=0.4, classes={'cow': 0.4}), "the file has no class 'cow'"),
        (dict(all=0.4, classes={7: 0.4}), 'the file has no class 7'),
    ],
)
def test_best_scores_that_are_none(best, message):
    with pytest.raises(UserError, match=message) as error:
        read_best_scores(dict(meta=META | dict(best_scores=best)), 'a.pth')
    assert 'a.pth' in str(error.value)
