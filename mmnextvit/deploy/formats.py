"""Files to deploy: ONNX, OpenVINO, TensorRT, CoreML and TorchScript.

A format is a line of :data:`FORMATS`. Each writes the network of
:class:`~mmnextvit.deploy.candidates.Candidates`, its own non-maximum suppression behind
it, and the metadata; and gives a run of the candidates by its own library, to compare
with torch's, where this machine can run it.
"""

import json
import logging
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import KEY
from .candidates import Candidates
from .onnx import (
    CANDIDATES,
    Run,
    candidates_by_onnxruntime,
    check_tensorrt,
    example,
    exported_program,
    onnx_network,
    quietly,
    save_onnx,
    with_nms,
    without_nms,
)
from .quantization import float_layers, quantize, quantize_signed
from .tensorrt import shape_range

# It warns that there is no Apple system here, and of every 64-bit number.
logging.getLogger('coremltools').setLevel(logging.ERROR)


@dataclass
class Job:
    """What is to be written.

    Args:
        candidates: The network.
        facts: Its metadata, which says what else is wanted of it.
        images: Batches (B, 3, H, W) for int8 to calibrate with.
        efficient_nms: TensorRT's plugin in place of ONNX's operator.
        float_layers: Gets the names of the layers that int8 leaves in float.
    """

    candidates: Candidates
    facts: dict[str, object]
    images: list[np.ndarray] | None = None
    efficient_nms: bool = False
    float_layers: list[str] = field(default_factory=list)

    @property
    def shape(self) -> dict[str, object]:
        """Arguments of :func:`~mmnextvit.deploy.onnx.exported_program`."""
        wanted = self.facts['input']
        return {key: wanted[key] for key in ('size', 'batch', 'dynamic_size')}


# ------------------------------------------------------------------------------ ONNX


def network_of(job: Job, quantized: Callable = quantize):
    """The job's network in ONNX, ``quantized`` where int8 is asked for."""
    network = onnx_network(job.candidates, **job.shape)
    if job.facts['precision'] == 'int8':
        network = quantized(network, job.images)
        job.float_layers += float_layers(network)
    return network


def complete(network, job: Job):
    """A network with what the job wants behind it."""
    if not job.facts['nms']['in_graph']:
        return without_nms(network)
    return with_nms(network, job.facts['nms'], job.efficient_nms)


def write_onnx(job: Job, path: Path) -> Run:
    network = network_of(job)
    save_onnx(complete(network, job), job.facts, path)
    return candidates_by_onnxruntime(network)


# -------------------------------------------------------------------------- OpenVINO


def write_openvino(job: Job, path: Path) -> Run:
    """A folder of ``model.xml`` and ``model.bin``."""
    import openvino

    network = network_of(job)
    path.mkdir()
    scratch = path / 'model.onnx'
    save_onnx(complete(network, job), job.facts, scratch)
    model = openvino.convert_model(scratch)
    scratch.unlink()
    model.set_rt_info(json.dumps(job.facts), [KEY])
    half = job.facts['precision'] == 'half'
    openvino.save_model(model, path / 'model.xml', compress_to_fp16=half)

    if job.facts['nms']['in_graph']:
        model.add_outputs([*CANDIDATES])
    # Left to itself OpenVINO takes bfloat16 where the processor has it.
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.compile_model(model, 'CPU', exact)
    names = CANDIDATES if job.facts['nms']['in_graph'] else ('boxes', 'scores')

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = compiled({'images': images})
        return tuple(found[name] for name in names)

    return run


# -------------------------------------------------------------------------- TensorRT


def write_tensorrt(job: Job, path: Path) -> Run:
    """An ONNX file that TensorRT's parser takes."""
    network = network_of(job, quantize_signed)
    model = complete(network, job)
    check_tensorrt(model)
    save_onnx(model, job.facts, path)
    return candidates_by_onnxruntime(network)


def trtexec_line(path: Path, facts: dict[str, object]) -> str:
    """The command that builds an engine of a file, where TensorRT is installed."""
    # Layers have the types of the file: float16 and int8 are written in it.
    words = ['trtexec', f'--onnx={path}', f'--saveEngine={path.with_suffix(".engine")}']
    words.append('--stronglyTyped')
    shapes = shape_range(facts)
    if len(set(shapes)) > 1:
        for name, shape in zip(('min', 'opt', 'max'), shapes):
            words.append(f'--{name}Shapes=images:{"x".join(map(str, shape))}')
    return shlex.join(words)


# ------------------------------------------------------------------------ TorchScript


class WithNMS(nn.Module):
    """A network of candidates followed by torchvision's NMS, to be traced.

    Outputs are those of :func:`~mmnextvit.deploy.onnx.with_nms`.
    """

    def __init__(self, candidates: nn.Module, nms: dict[str, object]) -> None:
        super().__init__()
        self.candidates = candidates
        self.suppress = torch.jit.script(suppress)
        self.limits = (
            float(nms['score_thr']),
            float(nms['iou_threshold']),
            int(nms['max_per_img']),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.suppress(*self.candidates(images), *self.limits)


def suppress(
    boxes: Tensor, scores: Tensor, score_thr: float, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS class by class, of boxes (B, N, 4) and scores (B, N, C), as a script."""
    count = boxes.shape[0]
    numbers = torch.zeros(count, 1, dtype=torch.int32, device=boxes.device)
    out_boxes = torch.zeros(count, limit, 4, device=boxes.device)
    out_scores = torch.zeros(count, limit, device=boxes.device)
    labels = torch.full((count, limit), -1, dtype=torch.int32, device=boxes.device)
    for i in range(count):
        found = torch.nonzero(scores[i] > score_thr)
        score = scores[i][found[:, 0], found[:, 1]]
        order = torch.argsort(score, descending=True)
        found, score = found[order], score[order]
        box = boxes[i][found[:, 0]]
        keep = torch.zeros(score.shape[0], dtype=torch.bool, device=boxes.device)
        for c in range(scores.shape[2]):
            mine = torch.nonzero(found[:, 1] == c)[:, 0]
            if mine.shape[0] > 0:
                best = torch.ops.torchvision.nms(box[mine], score[mine], iou_threshold)
                keep[mine[best]] = True
        kept = torch.nonzero(keep)[:limit, 0]
        n = kept.shape[0]
        numbers[i, 0] = n
        out_boxes[i, :n] = box[kept]
        out_scores[i, :n] = score[kept]
        labels[i, :n] = found[kept, 1].to(torch.int32)
    return numbers, out_boxes, out_scores, labels


def write_torchscript(job: Job, path: Path) -> Run:
    shape = example(job.shape['size'], job.shape['batch'])
    with torch.no_grad(), quietly():
        traced = module = torch.jit.trace(job.candidates, shape, check_trace=False)
        if job.facts['nms']['in_graph']:
            whole = WithNMS(traced, job.facts['nms'])
            module = torch.jit.trace(whole, shape, check_trace=False)
        torch.jit.save(
            module, path, _extra_files={f'{KEY}.json': json.dumps(job.facts)}
        )

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            return tuple(x.numpy() for x in traced(torch.from_numpy(images)))

    return run


# ---------------------------------------------------------------------------- CoreML


class ForCoreML(nn.Module):
    """Candidates of one image as CoreML's NMS takes them.

    Coordinates (N, 4) are the box's centre, width and height as parts of the image,
    confidence is (N, C).
    """

    def __init__(self, candidates: Candidates, size: list[int]) -> None:
        super().__init__()
        self.candidates = candidates
        height, width = size
        self.register_buffer('sides', torch.tensor([float(width), float(height)]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.candidates(images)
        start, end = boxes[0, :, :2] / self.sides, boxes[0, :, 2:] / self.sides
        return torch.cat(((start + end) / 2, end - start), -1), scores[0]


def write_coreml(job: Job, path: Path) -> None:
    """An ML program, in a pipeline with CoreML's NMS, from iOS 16 and macOS 13 on.

    What runs on Apple's systems only cannot be compared here: the specification is.
    """
    import coremltools as ct

    size = job.shape['size']
    program = exported_program(ForCoreML(job.candidates, size), **job.shape)
    half = job.facts['precision'] == 'half'
    names = ('coordinates', 'confidence')
    precision = ct.precision.FLOAT32
    if half:
        (output,) = program.graph.find_nodes(op='output')
        count = output.args[0][0].meta['val'].shape[0]
        select = partial(is_network, size=size, count=count)
        precision = ct.transform.FP16ComputePrecision(select)
    with torch.no_grad(), quietly():
        model = ct.convert(
            program.run_decompositions({}),
            inputs=[ct.ImageType('images', (1, 3, *size), color_layout='RGB')],
            outputs=[ct.TensorType(name) for name in names],
            convert_to='mlprogram',
            compute_precision=precision,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
        if job.facts['nms']['in_graph']:
            model = coreml_pipeline(ct, model, job.facts)
        model.short_description = f'{job.facts["config"]}, exported by mmnextvit'
        model.user_defined_metadata[KEY] = json.dumps(job.facts)
        model.save(str(path))
    check_coreml(ct, path, job.facts)


def is_network(op, size: list[int], count: int) -> bool:
    """Whether an operation of CoreML's belongs to neither normalisation nor decoding.

    Those give images (1, 3, H, W), and arrays of as many rows as candidates.
    """
    shape = list(op.outputs[0].shape)
    return shape[1:] != [3, *size] and count not in shape


def coreml_pipeline(ct, model, facts: dict[str, object]):
    """An ML program followed by CoreML's non-maximum suppression."""
    network, nms = model.get_spec(), facts['nms']
    tail = ct.proto.Model_pb2.Model()
    tail.specificationVersion = network.specificationVersion
    for name, width in (('coordinates', 4), ('confidence', len(facts['classes']))):
        feature = next(o for o in network.description.output if o.name == name)
        tail.description.input.add().CopyFrom(feature)
        out = tail.description.output.add()
        out.name = name
        array = out.type.multiArrayType
        array.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        boxes, columns = (array.shapeRange.sizeRanges.add() for _ in range(2))
        boxes.lowerBound, boxes.upperBound = 0, -1  # as many as are found
        columns.lowerBound = columns.upperBound = width
        for stage in ('Input', 'Output'):
            key = f'{name}{stage}FeatureName'
            setattr(tail.nonMaximumSuppression, key, name)
    layer = tail.nonMaximumSuppression
    layer.iouThreshold = nms['iou_threshold']
    layer.confidenceThreshold = nms['score_thr']
    layer.pickTop.perClass = True
    layer.stringClassLabels.vector.extend(facts['classes'])

    spec = ct.proto.Model_pb2.Model()
    spec.specificationVersion = network.specificationVersion
    spec.pipeline.models.add().CopyFrom(network)
    spec.pipeline.models.add().CopyFrom(tail)
    spec.description.input.extend(network.description.input)
    spec.description.output.extend(tail.description.output)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def check_coreml(ct, path: Path, facts: dict[str, object]) -> None:
    """Reads a CoreML file again and checks its specification.

    Raises:
        ValueError: It is not what was to be written.
    """
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    kinds = [spec.WhichOneof('Type')]
    if kinds == ['pipeline']:
        kinds = [m.WhichOneof('Type') for m in spec.pipeline.models]
    wanted = ['mlProgram']
    if facts['nms']['in_graph']:
        wanted.append('nonMaximumSuppression')
    image = spec.description.input[0].type.imageType
    size = [image.height, image.width]
    names = {o.name for o in spec.description.output}
    found = (kinds, size, names, spec.description.metadata.userDefined[KEY])
    must = (
        wanted,
        facts['input']['size'],
        {'coordinates', 'confidence'},
        json.dumps(facts),
    )
    if found != must:
        raise ValueError(f'{path}: the specification is {found}, not {must}')


# --------------------------------------------------------------------------- formats


@dataclass
class Format:
    """One line of :data:`FORMATS`.

    Args:
        suffix: Of the file or folder.
        write: Writes a job to a path; returns a run of the candidates, or ``None``
            where this machine has nothing to run it with.
        libraries: What it needs, each called as it is imported.
        extra: Our extra that brings them.
        int8: Whether it has int8.
        dynamic: Whether batch, height and width may be dynamic.
        runs: Whether :class:`~mmnextvit.runtime.Detector` runs what is written.
    """

    suffix: str
    write: Callable[[Job, Path], Run | None]
    libraries: tuple[str, ...] = ()
    extra: str = ''
    int8: bool = False
    dynamic: bool = False
    runs: bool = True


ONNX = ('onnx', 'onnxscript', 'onnxslim', 'onnxruntime')
FORMATS = {
    'onnx': Format('.onnx', write_onnx, ONNX, 'onnx', int8=True, dynamic=True),
    'openvino': Format(
        '_openvino',
        write_openvino,
        (*ONNX, 'openvino'),
        'openvino',
        int8=True,
        dynamic=True,
    ),
    'tensorrt': Format(
        '_tensorrt.onnx', write_tensorrt, ONNX, 'onnx', int8=True, dynamic=True
    ),
    'coreml': Format(
        '.mlpackage', write_coreml, ('coremltools',), 'coreml', runs=False
    ),
    'torchscript': Format('.torchscript', write_torchscript),
}


def require(libraries: Iterable[str], extra: str) -> None:
    """Makes sure that libraries are there, before any work is done.

    Raises:
        ValueError: One isn't; the message has the command that installs it.
    """
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            raise ValueError(
                f'{library} is not installed or does not start ({error}): '
                f'pip install "mmnextvit[{extra}]"'
            ) from error
