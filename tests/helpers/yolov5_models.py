"""The published YOLOv5 models as YAML text, made from what tells them apart."""

from pathlib import Path

import yaml

from tests.helpers.yolov5_neck import YAML

SCALES = {
    'n': (0.33, 0.25),
    's': (0.33, 0.50),
    'm': (0.67, 0.75),
    'l': (1.0, 1.0),
    'x': (1.33, 1.25),
}
ANCHORS = {
    3: ['10,13, 16,30, 33,23', '30,61, 62,45, 59,119', '116,90, 156,198, 373,326'],
    4: ['19,27, 44,40, 38,94', '96,68, 86,152, 180,137', '140,301, 303,264, 238,542',
        '436,615, 739,380, 925,792'],
}  # fmt: skip


def anchors_of(levels: int) -> list[list[int]]:
    return [[int(x) for x in level.split(',')] for level in ANCHORS[levels]]


def yolov5_model(
    scale: str = 's',
    widths: tuple[int, ...] = (128, 256, 512, 1024),
    conv: str = 'Conv',
    c3: str = 'C3',
    last_c3: str | None = None,
    head: tuple = ('Detect', ['nc', 'anchors']),
    nc: int = 80,
) -> dict:
    """A model of YOLOv5 v6: a CSP backbone down, SPPF, and a path up and down again.

    Args:
        scale: Key of SCALES.
        widths: Channels at strides 4, 8, 16, ...; a fifth makes it a P6 model.
        conv: Module of every convolution but the first.
        c3: Module of every CSP block.
        last_c3: That of the backbone's last one.
        head: Last row's module and arguments.
        nc: Classes.
    """
    depths = (3, 6, 9, 3, 3)[: len(widths)]
    backbone = [[-1, 1, 'Conv', [64, 6, 2, 2]]]
    ends = []  # row of each stride's last block
    for width, depth in zip(widths, depths):
        backbone += [[-1, 1, conv, [width, 3, 2]], [-1, depth, c3, [width]]]
        ends.append(len(backbone) - 1)
    if last_c3:
        backbone[-1][2] = last_c3
    backbone += [[-1, 1, 'SPPF', [widths[-1], 5]]]
    rows, laterals, outs = list(backbone), [], []
    for width, end in zip(widths[-2:0:-1], ends[-2:0:-1]):
        laterals.append(len(rows))
        rows += [
            [-1, 1, conv, [width, 1, 1]],
            [-1, 1, 'nn.Upsample', ['None', 2, 'nearest']],
            [[-1, end], 1, 'Concat', [1]],
            [-1, 3, c3, [width, False]],
        ]
    outs.append(len(rows) - 1)
    for width, wide, lateral in zip(widths[1:], widths[2:], laterals[::-1]):
        rows += [
            [-1, 1, conv, [width, 3, 2]],
            [[-1, lateral], 1, 'Concat', [1]],
            [-1, 3, c3, [wide, False]],
        ]
        outs.append(len(rows) - 1)
    depth, width = SCALES[scale]
    return {
        'nc': nc,
        'depth_multiple': depth,
        'width_multiple': width,
        'anchors': anchors_of(len(outs)),
        'backbone': backbone,
        'head': [*rows[len(backbone) :], [outs, 1, *head]],
    }


def document_model(backbone: str = 'nextvit_small', weights: object = False) -> dict:
    """The source document's YAML (SPEC, section 2)."""
    return {
        'nc': 80,
        'depth_multiple': 0.33,
        'width_multiple': 0.25,
        'anchors': anchors_of(3),
        'backbone': [[-1, 1, backbone, [weights]], YAML[0]],
        'head': [*YAML[1:], [[13, 16, 19], 1, 'Detect', ['nc', 'anchors']]],
    }


def write_yaml(path: Path, content: dict) -> Path:
    """Writes a model as people do: a row a line."""
    lines = []
    for key, value in content.items():
        if not isinstance(value, list) or not value:
            lines.append(f'{key}: {_flow(value)}')
            continue
        lines += [f'{key}:', *(f'  - {_flow(item)}' for item in value)]
    path.write_text('\n'.join(lines) + '\n')
    return path


def _flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]


# Parameters as published or, for the last, as the document's own model has.
PARAMETERS = {
    'n': (yolov5_model('n'), 1_872_157),
    's': (yolov5_model('s'), 7_235_389),
    'm': (yolov5_model('m'), 21_190_557),
    'l': (yolov5_model('l'), 46_563_709),
    'x': (yolov5_model('x'), 86_749_405),
    's6': (yolov5_model('s', (128, 256, 512, 768, 1024)), 12_626_620),
    's-ghost': (yolov5_model('s', conv='GhostConv', c3='C3Ghost'), 3_897_605),
    's-transformer': (yolov5_model('s', last_c3='C3TR'), 7_235_645),
    's-seg': (
        yolov5_model('s', head=('Segment', ['nc', 'anchors', 32, 256])),
        7_621_277,
    ),
}
