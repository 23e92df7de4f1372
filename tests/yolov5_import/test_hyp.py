"""YOLOv5's hyperparameters as arguments of a config."""

from mmnextvit.utils.errors import UserError
from mmnextvit.utils.yaml_reader import read_yaml
from mmnextvit.yolov5_import.config_text import Settings, make_config_text
from mmnextvit.yolov5_import.hyp import Hyp, read_hyp

import pytest
from mmengine.config import Config

from tests.helpers.yolov5_detectors import read_content
from tests.helpers.yolov5_models import write_yaml, yolov5_model


def test_neutral_values_are_those_without_a_file(tmp_path):
    neutral = dict(mosaic=1, mixup=0, flipud=0, anchor_t=4, cls=0.5, box=0.05, obj=1)
    neutral.update(cls_pw=1, fl_gamma=0, perspective=0, anchors=0)
    assert read_hyp(read_yaml(write_yaml(tmp_path / 'h.yaml', neutral))) == Hyp()


@pytest.mark.parametrize('mosaic, notes', [(0, 1), (0.5, 1), (1, 0)])
def test_without_mosaic(mosaic, notes, tmp_path):
    file = write_yaml(tmp_path / 'h.yaml', dict(mosaic=mosaic, mixup=0.5))
    hyp = read_hyp(read_yaml(file))
    assert len(hyp.notes) == notes
    text = make_config_text(
        read_content(tmp_path, yolov5_model('n')), Settings(hyp=hyp)
    )
    steps = [t.type for t in Config.fromstring(text, '.py').train_pipeline]
    assert ('Mosaic' in steps) == (mosaic > 0)
    assert ('LetterResize' in steps) == (mosaic == 0)
    assert ('YOLOv5MixUp' in steps) == (mosaic > 0)


@pytest.mark.parametrize(
    'key, value',
    [('box', 'x'), ('box', True), ('box', -1), ('box', float('nan')), ('box', 1e9),
     ('scale', 1.0), ('translate', 5), ('fliplr', 2), ('anchor_t', 0),
     ('anchors', 500)],
)  # fmt: skip
def test_bad_hyperparameters(key, value, tmp_path):
    file = write_yaml(tmp_path / 'hyp.yaml', {'lr0': '1e-2', key: value})
    with pytest.raises(
        UserError, match=rf'hyp.yaml:2: {key}: .*(not a number|of range)'
    ):
        read_hyp(read_yaml(file))


def test_names_of_older_versions(tmp_path):
    """v1 and v2 write giou for box, and the optimizer's name."""
    file = write_yaml(tmp_path / 'h.yaml', dict(optimizer='SGD', lr0=0.01, giou=0.04))
    hyp = read_hyp(read_yaml(file))
    assert hyp.gains['bbox'] == 0.04 and not hyp.notes
    file = write_yaml(tmp_path / 'h.yaml', dict(optimizer='adam', lr0=0.01))
    (note,) = read_hyp(read_yaml(file)).notes
    assert str(note).endswith('h.yaml:1 optimizer: adam (here SGD)')
    file = write_yaml(tmp_path / 'h.yaml', dict(box=0.05, giou=0.05))
    with pytest.raises(UserError, match=r'hyp.yaml|h.yaml:2: giou: .*older name'):
        read_hyp(read_yaml(file))


@pytest.mark.parametrize('encoding', ['gbk', 'cp1252', 'shift_jis'])
def test_comments_in_any_encoding(encoding, tmp_path):
    comment = {'gbk': '学习率', 'cp1252': 'Größe', 'shift_jis': '学習率'}[encoding]
    path = tmp_path / 'h.yaml'
    path.write_bytes(f'# {comment}\nlr0: 0.02  # {comment}\n'.encode(encoding))
    assert read_hyp(read_yaml(path)).optimizer == dict(lr=0.02)
    path.write_bytes(f'lr0: 0.02\n{comment}: 3\n'.encode(encoding))
    with pytest.raises(UserError, match='h.yaml: the file is not text in UTF-8'):
        read_yaml(path)
