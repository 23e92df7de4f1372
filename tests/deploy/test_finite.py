"""An exported file with NaN among its weights is refused: it would find nothing."""

import shutil
from pathlib import Path

from mmnextvit.deploy.finite import check_finite
from mmnextvit.utils.errors import UserError

import numpy as np
import onnx
import openvino
import pytest
from openvino import opset13 as ops

from tests.helpers.commands import run_here

VALUES = [
    ([1.0, float('nan')], True),
    ([1.0, float('inf')], False),  # as the bounds of a network's own clamping
    ([1.0, -2.0], False),
]


def write_onnx(path: Path, values: np.ndarray) -> Path:
    weight = onnx.numpy_helper.from_array(values, 'stem.weight')
    shape = onnx.helper.make_tensor_value_info('x', 1, [2])
    out = onnx.helper.make_tensor_value_info('y', 1, [2])
    node = onnx.helper.make_node('Add', ['x', 'stem.weight'], ['y'])
    graph = onnx.helper.make_graph([node], 'g', [shape], [out], [weight])
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def write_openvino(folder: Path, values: np.ndarray) -> Path:
    x = ops.parameter([2], values.dtype, 'x')
    weight = ops.constant(values, name='stem.weight')
    model = openvino.Model([ops.add(x, weight)], [x])
    openvino.save_model(model, folder / 'm.xml', compress_to_fp16=False)
    return folder


@pytest.mark.parametrize('values, bad', VALUES)
@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_constants(tmp_path, values, bad, dtype):
    numbers = np.array(values, dtype)
    files = [write_openvino(tmp_path, numbers), tmp_path / 'm.xml']
    if dtype == np.float32:
        files.append(write_onnx(tmp_path / 'm.onnx', numbers))
    for path in files:
        if not bad:
            check_finite(str(path))
            continue
        with pytest.raises(UserError) as error:
            check_finite(str(path))
        assert str(error.value).startswith(f'{path}: its tensor stem.weight holds NaN')


def test_commands(here, user, exported, capfd):
    """`test` and `predict` say so; the file is otherwise as it was exported."""
    shutil.copy(user / 'best.onnx', here / 'x.onnx')
    model = onnx.load(here / 'x.onnx')
    tensor = next(
        t for t in model.graph.initializer if t.data_type == 1 and len(t.dims) == 4
    )
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, here / 'x.onnx')
    image = str(next((here / 'data/val').iterdir()))
    for command, *rest in (('test',), ('predict', image)):
        args = command, 'tiny.py', 'x.onnx', *rest
        printed = run_here(*args, cwd=here, capfd=capfd, code=1)
        said = f'x.onnx: its tensor {tensor.name} holds NaN'
        assert said in printed.strip().splitlines()[-1] and 'Traceback' not in printed
