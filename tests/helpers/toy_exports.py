"""Toy detectors in the runtime's formats, whose metadata a test may choose."""

import json
import xml.etree.ElementTree as ET
from hashlib import sha256
from pathlib import Path

from mmnextvit.runtime import CHANNELS

import numpy as np
import onnx
import openvino
import torch
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from tests.helpers.letterbox import make_steps

CLASSES = ['red', 'white', 'Blutplättchen <"3">']
BOXES = np.float32([[8, 4, 40, 28], [9, 5, 41, 29], [-5, -5, 70, 70], [0, 0, 9, 9]])
SCORES = np.float32([0.9, 0.6, 0.3, 0.0])
LABELS = np.int64([2, 0, 1, 0])

# An image's scores are those above times its brightness, 0 to 1, in the canvas.
BRIGHTNESS = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[B,3,H,W] images) => (outputs) {
        axes = Constant <value_ints: ints = [1, 2, 3]> ()
        white = Constant <value_float: float = 255.0> ()
        mean = ReduceMean <keepdims = 0> (images, axes)
        brightness = Div (mean, white)
        last = Constant <value_ints: ints = [-1]> ()
        column = Unsqueeze (brightness, last)
        zeros = Sub (column, column)
        plane = Unsqueeze (column, last)
        void = Sub (plane, plane)
        boxes = Add (void, all_boxes)
"""
WITH_NMS = """
        scores = Mul (column, all_scores)
        all_labels = Add (zeros, float_labels)
        labels = Cast <to = 6> (all_labels)
        three = Constant <value_float: float = 3.0> ()
        number = Add (zeros, three)
        num_detections = Cast <to = 6> (number)
    }
"""
WITHOUT_NMS = """
        scores = Mul (plane, all_scores)
    }
"""
OUTPUTS_WITH_NMS = (
    'int32[B,1] num_detections, float[B,K,4] boxes, float[B,K] scores, '
    'int32[B,K] labels'
)
OUTPUTS_WITHOUT_NMS = 'float[B,K,4] boxes, float[B,K,C] scores'


def metadata(
    size=(64, 64), batch=None, dynamic=False, in_graph=True, mini_pad=False, **more
) -> dict:
    height, width = size
    return {
        'format': 1,
        'config': 'toy',
        'classes': CLASSES,
        'strides': [8, 16, 32],
        'precision': 'float32',
        'input': {'batch': batch, 'size': size, 'dynamic_size': dynamic},
        'resize': steps((width, height), mini_pad=mini_pad),
        'nms': {
            'in_graph': in_graph,
            'score_thr': 0.001,
            'iou_threshold': 0.65,
            'max_per_img': 300,
            'multi_label': True,
        },
        **more,
    }


def steps(scale: tuple[int, int], *args, **options) -> list[dict]:
    """As MMYOLO's transforms take their scale: width and height."""
    return make_steps(scale[::-1], *args, **options)


def write_onnx(path: Path, about: dict, **constants: np.ndarray) -> Path:
    """The toy detector; ``constants`` take the place of BOXES, SCORES and LABELS."""
    in_graph = about['nms']['in_graph']
    outputs = OUTPUTS_WITH_NMS if in_graph else OUTPUTS_WITHOUT_NMS
    text = BRIGHTNESS + (WITH_NMS if in_graph else WITHOUT_NMS)
    text = text.replace('(outputs)', f'({outputs})')
    channels = CHANNELS[about['input'].get('channels', 'RGB')]
    text = text.replace('float[B,3,H,W]', f'float[B,{channels},H,W]')
    if about['input']['batch']:
        text = text.replace('[B,', f'[{about["input"]["batch"]},')
    model = parse_model(text)
    constants = {'boxes': BOXES, 'scores': SCORES, 'labels': LABELS, **constants}
    names = {'boxes': 'all_boxes', 'scores': 'all_scores', 'labels': 'float_labels'}
    for name, values in constants.items():
        if in_graph or name != 'labels':
            values = values[None].astype(np.float32)
            model.graph.initializer.append(from_array(values, names[name]))
    onnx.helper.set_model_props(model, {'mmnextvit': json.dumps(about)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_openvino(folder: Path, about: dict) -> Path:
    folder.mkdir()
    plain = write_onnx(folder / 'model.onnx', about)
    model = openvino.Core().read_model(plain)
    model.set_rt_info(json.dumps(about), ['mmnextvit'])
    openvino.save_model(model, folder / 'model.xml', compress_to_fp16=False)
    plain.unlink()
    return folder


class Toy(torch.nn.Module):
    """The toy detector for TorchScript."""

    def __init__(self):
        super().__init__()
        self.boxes, self.scores = torch.tensor(BOXES), torch.tensor(SCORES)
        self.labels = torch.tensor(LABELS, dtype=torch.int32)

    def forward(self, images):
        brightness = images.mean((1, 2, 3))[:, None] / 255
        batch = images.shape[0]
        return (
            torch.full((batch, 1), 3, dtype=torch.int32),
            self.boxes.expand(batch, -1, -1),
            brightness * self.scores,
            self.labels.expand(batch, -1),
        )


def write_torchscript(path: Path, about: dict) -> Path:
    model = torch.jit.trace(Toy(), torch.zeros(2, 3, 64, 64), check_trace=False)
    torch.jit.save(model, path, _extra_files={'mmnextvit.json': json.dumps(about)})
    return path


def write_pt2(path: Path, about: dict) -> Path:
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        Toy(), (torch.zeros(2, 3, 64, 96),), dynamic_shapes=(any_size,)
    )
    program.example_inputs = None
    save_pt2(program, path, json.dumps(about))
    return path


def save_pt2(
    program: torch.export.ExportedProgram, path: Path, text: str | None
) -> None:
    files = {} if text is None else {'mmnextvit.json': text}
    torch.export.save(program, path, extra_files=files)


# An image's scores are those of the other toys times its brightness; of all candidates.
NCNN = """7767517
5 5
Input in0 0 1 in0
Reduction brightness 1 1 in0 brightness 0=3 1=1 2=3.921569e-3 5=1
MemoryData all_scores 0 1 all_scores 0=3 1=4
BinaryOp scores 2 1 all_scores brightness out1 0=2
MemoryData boxes 0 1 out0 0=4 1=4
"""


def write_ncnn(folder: Path, about: dict) -> Path:
    """The toy detector, of which the runtime suppresses boxes."""
    folder.mkdir()
    about = {**about, 'nms': {**about['nms'], 'in_graph': False}}
    scores = np.zeros((len(SCORES), len(CLASSES)), np.float32)
    scores[np.arange(len(SCORES)), LABELS] = SCORES
    files = {
        'model.param': NCNN.encode(),
        'model.bin': scores.tobytes() + BOXES.tobytes(),
    }
    digests = {name: sha256(content).hexdigest() for name, content in files.items()}
    content = json.dumps({'metadata': about, 'sha256': digests})
    for name, values in {**files, 'model.json': content.encode()}.items():
        (folder / name).write_bytes(values)
    return folder


WRITERS = {
    'model.onnx': write_onnx,
    'model_openvino': write_openvino,
    'model.torchscript': write_torchscript,
    'model.pt2': write_pt2,
}


def replace_metadata(path: Path, text: str | None) -> None:
    """Puts another text, or none, in the place of an exported file's metadata."""
    if path.suffix == '.onnx':
        model = onnx.load(path)
        del model.metadata_props[:]
        if text is not None:
            onnx.helper.set_model_props(model, {'mmnextvit': text})
        onnx.save(model, path)
    elif path.is_dir():
        xml = path / 'model.xml'
        tree = ET.parse(xml)
        node = tree.find('rt_info/mmnextvit')
        if text is None:
            tree.find('rt_info').remove(node)
        else:
            node.set('value', text)
        tree.write(xml)
    elif path.suffix == '.pt2':
        save_pt2(torch.export.load(path), path, text)
    else:
        files = {} if text is None else {'mmnextvit.json': text}
        torch.jit.save(torch.jit.load(path), path, _extra_files=files)
