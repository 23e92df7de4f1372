"""NaN among the weights of an exported file, with which it would find nothing.

Non-maximum suppression in the file leaves every score out that is NaN, so that nothing
of it shows in what the file gives.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from ..utils.messages import shorten


def check_finite(path: str) -> None:
    """Looks for NaN among the constants of an exported file in ONNX or OpenVINO.

    Infinity is one of a network's own constants. Other formats are not looked into,
    and neither is ONNX without its package.

    Args:
        path: Exported file or folder, which can be opened.

    Raises:
        UserError: A constant holds NaN.
    """
    for name, values in _iterate_constants(Path(path)):
        if values.dtype.kind == 'f' and np.isnan(values).any():
            raise UserError(
                f'its tensor {shorten(name)} holds NaN, with which nothing is found. '
                'Export a checkpoint whose training went well',
                file=path,
            )


def _iterate_constants(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of a file's constants, of as many formats as can be read."""
    if path.suffix == '.onnx' and find_spec('onnx'):
        import onnx

        for tensor in onnx.load(path).graph.initializer:
            yield tensor.name, onnx.numpy_helper.to_array(tensor, str(path.parent))
    elif (xml := _find_xml(path)) and find_spec('openvino'):
        import openvino

        for node in openvino.Core().read_model(xml).get_ops():
            if node.get_type_name() == 'Constant':
                yield node.get_friendly_name(), node.data


def _find_xml(path: Path) -> Path | None:
    """The file of an OpenVINO model, which is named itself or by its folder."""
    files = sorted(path.glob('*.xml')) if path.is_dir() else [path]
    return files[0] if len(files) == 1 and files[0].suffix == '.xml' else None
