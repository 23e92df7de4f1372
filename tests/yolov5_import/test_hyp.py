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
