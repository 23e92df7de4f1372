"""A detector as an OpenVINO folder, converted from ONNX."""

import json
from pathlib import Path

import numpy as np

from ..runtime import KEY, Metadata, name_file, parse_metadata, read_openvino_metadata
from . import onnx
from .job import Job, Written


def write(job: Job, path: Path) -> Written:
    """Writes a folder of ``model.xml`` and ``model.bin``."""
    import openvino

    network, float_layers = onnx.convert(job)
    path.mkdir()
    file = path / 'model.onnx'
    onnx.save(onnx.complete(network, job), job.metadata, file)
    model = openvino.convert_model(file)
    file.unlink()
    model.set_rt_info(json.dumps(job.metadata), [KEY])
    half = job.metadata['precision'] == 'half'
    openvino.save_model(model, path / 'model.xml', compress_to_fp16=half)

    names = job.outputs
    if job.metadata['nms']['in_graph']:
        names = [onnx.CANDIDATES.get(name, name) for name in names]
        model.add_outputs([n for n in names if n in onnx.CANDIDATES.values()])
    # Left to itself OpenVINO takes bfloat16 where the processor has it.
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.compile_model(model, 'CPU', exact)

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = compiled({'images': images})
        return tuple(outputs[name] for name in names)

    return Written(run, read_metadata(path), float_layers)


def read_metadata(path: Path) -> Metadata:
    """The metadata in an OpenVINO folder.

    Raises:
        ModelFileError: As of :func:`~mmnextvit.runtime.parse_metadata`.
    """
    import openvino

    with name_file(path, 'openvino'):
        model = openvino.Core().read_model(path / 'model.xml')
        text = read_openvino_metadata(model)
    return parse_metadata(text, path)
