"""The config of an imported model: what it builds, and how it reads."""

from mmnextvit.utils.errors import UserError
from mmnextvit.utils.render import (
    Assign,
    Code,
    Comment,
    Extended,
    Rows,
    render,
)
from mmnextvit.yolov5_import.config_text import MAX_LINES, Settings, make_config_text
from mmnextvit.yolov5_import.notes import Note

import pytest
import torch
from torch import nn

from tests.helpers.yolov5_detectors import import_content, read_content
from tests.helpers.yolov5_models import PARAMETERS, document_model, yolov5_model

DOCUMENT = 32_708_477


@pytest.mark.slow
@pytest.mark.parametrize('name', [*PARAMETERS, 'document'])
def test_parameters_are_the_published_ones(name, tmp_path):
    content, count = {**PARAMETERS, 'document': (document_model(), DOCUMENT)}[name]
    text, _, detector = import_content(tmp_path, content)
    assert sum(p.numel() for p in detector.parameters()) == count
    assert len(text.splitlines()) <= 80
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


@pytest.mark.slow
def test_the_document_is_our_config(tmp_path, load_config):
    _, cfg, _ = import_content(tmp_path, document_model())
    ours = load_config('yolov5_nextvit_s')
    rows = [list(row) for row in ours.model.neck.rows]
    assert [list(row) for row in cfg.model.neck.rows] == rows
    assert cfg.model.neck.out_rows == ours.model.neck.out_rows
    for part in ('loss_cls', 'loss_bbox', 'loss_obj', 'obj_level_weights'):
        assert cfg.model.bbox_head[part] == ours.model.bbox_head[part]
    assert cfg.train_pipeline == ours.train_pipeline
    assert cfg.model.data_preprocessor == ours.model.data_preprocessor
    priors = ours.model.bbox_head.prior_generator.base_sizes
    assert cfg.model.bbox_head.prior_generator.base_sizes == priors


@pytest.mark.slow
@pytest.mark.parametrize('levels', [1, 2, 4, 5])
def test_heads_on_one_to_five_levels(levels, tmp_path):
    """P2 to P6 and P3 to P7, with YOLOv5's weights of the levels."""
    widths = (32, 48, 64, 80, 96, 112)
    content = yolov5_model('n', (128, 256, 512, 768, 1024))
    rows = [[-1, 1, 'Conv', [w * 4, 3, 2]] for w in widths]
    content['backbone'] = [[-1, 1, 'Conv', [64, 3, 2]], *rows]
    outs = list(range(7 - levels, 7))
    content['head'] = [[outs, 1, 'Detect', ['nc', 'anchors']]]
    content['anchors'] = [[10 * i, 12 * i, 14 * i, 9 * i] for i in range(1, levels + 1)]
    _, cfg, detector = import_content(tmp_path, content)
    strides = [2 ** (i + 1) for i in outs]
    assert list(detector.neck.strides) == strides
    head = detector.bbox_head
    assert head.obj_level_weights == [4.0, 1.0, 0.25, 0.06, 0.02][:levels]
    assert head.prior_generator.strides == [(s, s) for s in strides]
    assert head.head_module.num_base_priors == 2
    targets = torch.tensor([[0, 1, 8.0, 8.0, 60.0, 70.0]])
    samples = dict(
        bboxes_labels=targets, img_metas=[dict(batch_input_shape=(128, 128))]
    )
    losses = detector.train().loss(torch.rand(2, 3, 128, 128), samples)
    sum(losses.values()).sum().backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.slow
def test_segment_head_learns_and_predicts(tmp_path):
    content = yolov5_model('n', head=('Segment', ['nc', 'anchors', 32, 256]))
    _, cfg, detector = import_content(tmp_path, content)
    assert cfg.model.bbox_head.type == 'YOLOv5InsHead'
    assert cfg.model.bbox_head.loss_mask_weight == 0.05
    targets = torch.tensor([[0, 1, 8.0, 8.0, 60.0, 70.0], [1, 2, 5.0, 9.0, 90.0, 99.0]])
    masks = torch.zeros(2, 32, 32)
    masks[0, 2:17, 2:15] = masks[1, 2:24, 1:22] = 1
    shape = dict(batch_input_shape=(128, 128))
    samples = dict(bboxes_labels=targets, masks=masks, img_metas=[shape, shape])
    losses = detector.train().loss(torch.rand(2, 3, 128, 128), samples)
    assert set(losses) >= {'loss_cls', 'loss_bbox', 'loss_obj', 'loss_mask'}
    sum(losses.values()).sum().backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_placeholder_anchors_build_and_refuse_to_train(tmp_path):
    content = yolov5_model('n')
    content['anchors'] = 4
    _, cfg, detector = import_content(tmp_path, content)
    assert cfg.model.bbox_head.prior_generator.base_sizes == 4
    assert detector.bbox_head.head_module.num_base_priors == 4
    assert len(detector.bbox_head.prior_generator.base_sizes) == 3
    with pytest.raises(UserError, match='placeholders.*compute_anchors'):
        detector.loss(torch.rand(1, 3, 64, 64), {})


# ----------------------------------------------------------------------- the text


def read_variables(text: str) -> dict:
    """What a text of assignments assigns."""
    variables = {}
    exec(text, {}, variables)  # written by this test
    return variables


OUTSIDE = """a'b"c\n\\import os  # {x}\0\u2028"""


@pytest.mark.parametrize(
    'value',
    [
        OUTSIDE,
        [OUTSIDE, {OUTSIDE: OUTSIDE}],
        {'class': 1, 'with.dot': (1,), 'plain': None},
        ('one',),
        (),
        {},
        [],
        [[(1.5, -2)], True],
        {f'key{i}': list(range(30)) for i in range(30)},
        ('x' * 100,),
    ],
)
@pytest.mark.parametrize('max_lines', [1, 10**6])
def test_data_are_written_as_themselves(value, max_lines):
    text = render([Comment(OUTSIDE), Assign('x', value, OUTSIDE)], max_lines)
    assert read_variables(text) == {'x': value}


@pytest.mark.parametrize('value', [float('nan'), float('inf'), object(), {1}])
def test_what_is_not_plain_data_is_not_written(value):
    with pytest.raises(TypeError, match='not plain data'):
        render([Assign('x', [value])], 80)


def test_code_refers_to_what_stands_above():
    base, rows = dict(a=1, b=2), [[-1, 1, 'Conv', [64]]] * 9
    statements = [
        Assign('base', base),
        Assign('rows', Rows(rows, 5)),
        Assign('x', Extended(Code('base'), dict(b=3, rows=Code('rows')))),
    ]
    long, short = render(statements, 100), render(statements, 10)
    assert read_variables(long) == read_variables(short)
    assert read_variables(long)['x'] == dict(a=1, b=3, rows=rows)
    assert "[-1, 1, 'Conv', [64]],  # 13" in long
    assert len(short.splitlines()) <= 10 < len(long.splitlines())


def test_lines_are_short_where_there_is_room(tmp_path):
    text = make_config_text(read_content(tmp_path, document_model()), Settings())
    assert max(map(len, text.splitlines())) <= 88
    assert text.isascii() and '\n\n' in text


def test_many_notes_are_counted(tmp_path):
    model = read_content(tmp_path, document_model())
    notes = [Note(tmp_path / 'm.yaml', i, f'spare{i}: {i}') for i in range(40)]
    text = make_config_text(model, Settings(notes=notes))
    assert text.count('# No counterpart: ') == 15
    assert '# and 25 more, which the import has printed' in text
    assert len(text.splitlines()) <= MAX_LINES
