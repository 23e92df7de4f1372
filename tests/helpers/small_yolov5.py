"""A YOLOv5 model of five convolutions, which a test imports, runs and exports fast."""

from tests.helpers.yolov5_models import yolov5_model


def small_yolov5(strides: int = 3) -> dict:
    """Its YAML's content: three classes, and so many strides from 8 on."""
    content = yolov5_model('n', nc=3)
    widths = (32, 48, 64, 80, 96, 112)[: 2 + strides]
    content['backbone'] = [[-1, 1, 'Conv', [w * 4, 3, 2]] for w in widths]
    outs = list(range(2, 2 + strides))
    content['head'] = [[outs, 1, 'Detect', ['nc', 'anchors']]]
    if strides != 3:
        content['anchors'] = [[10, 13, 16, 30, 33, 23]] * strides
    return content
