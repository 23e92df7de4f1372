"""A detector as an ONNX file for TensorRT, and as an engine where TensorRT is.

Engines belong to one GPU and one version of TensorRT, so that the ONNX file is what is
kept and passed on; an engine is built to compare it with torch.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..runtime import (
    Detector,
    Metadata,
    Session,
    check_inputs,
    count_channels,
    to_pair,
)
from ..utils.errors import UserError
from . import onnx
from .job import Job, Written
from .quantization import quantize_signed

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_BATCH = 16  # images at a time, where the file has a dynamic batch
WORKSPACE = 4 << 30  # bytes

# What TensorRT's ONNX parser knows, by onnx-tensorrt's docs/operators.md for TensorRT
# 8.5; LayerNormalization by the notes of release 8.6.
_PARSED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool
BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv
ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GRU
HardSigmoid HardSwish Identity If InstanceNormalization IsNaN LayerNormalization
LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool LRN LSTM MatMul
Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero
Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan
Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
EfficientNMS_TRT
"""
TENSORRT_OPERATORS = frozenset(_PARSED.split())
# Inputs, counted from 0, that must be constant, by the same page.
CONSTANT_INPUTS = {
    'CumSum': {1: 'an axis'},
    'NonMaxSuppression': {2: 'a limit', 3: 'an IoU threshold', 4: 'a minimum score'},
    'Slice': {3: 'an axis'},
    'Squeeze': {1: 'an axis'},
    'TopK': {1: 'a number'},
    'Unsqueeze': {1: 'an axis'},
}
# The modes of Resize that it knows.
RESIZE_MODES = {
    'mode': ('nearest', 'linear'),
    'coordinate_transformation_mode': (
        *('half_pixel', 'pytorch_half_pixel', 'tf_half_pixel_for_nn'),
        *('asymmetric', 'align_corners'),
    ),
}
UNKNOWN_TYPES = {
    *('COMPLEX128', 'COMPLEX64', 'INT16', 'STRING', 'UINT16', 'UINT32', 'UINT64'),
    'DOUBLE',  # is cut to float
}
TWO_D = ('AveragePool', 'MaxPool')  # or three dimensions


QUANTIZER = quantize_signed  # of int8


def write(job: Job, path: Path) -> Written:
    """Writes an ONNX file that TensorRT's parser takes."""
    network, float_layers = onnx.convert(job, QUANTIZER)
    model = onnx.complete(network, job)
    check_operators(model)
    onnx.save(model, job.metadata, path)
    return Written(
        onnx.run_by_onnxruntime(network), onnx.read_metadata(path), float_layers
    )


def format_trtexec(path: Path, metadata: Metadata) -> str:
    """The command that builds an engine of a file, where TensorRT is installed."""
    # Layers have the types of the file: float16 and int8 are written in it.
    words = ['trtexec', f'--onnx={path}', f'--saveEngine={path.with_suffix(".engine")}']
    words.append('--stronglyTyped')
    shapes = get_shape_range(metadata)
    if len(set(shapes)) > 1:
        for name, shape in zip(('min', 'opt', 'max'), shapes):
            words.append(f'--{name}Shapes=images:{"x".join(map(str, shape))}')
    return shlex.join(words)


def check_operators(model: 'ModelProto') -> None:
    """Compares a model with what TensorRT's ONNX parser knows.

    Raises:
        UserError: It has an operator that the parser doesn't know, or one in a form
            that it doesn't.
    """
    wrong = sorted({n.op_type for n in model.graph.node} - TENSORRT_OPERATORS)
    constant = list_constants(model)
    for node in model.graph.node:
        kernel = next((a.ints for a in node.attribute if a.name == 'kernel_shape'), ())
        if node.op_type in TWO_D and len(kernel) == 1:
            wrong.append(f'{node.op_type} in one dimension ({node.name})')
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            zero = constant.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and (zero.dtype != np.int8 or zero.any()):
                wrong.append(f'{node.op_type} that is not int8 around 0 ({node.name})')
        for i, what in CONSTANT_INPUTS.get(node.op_type, {}).items():
            if i < len(node.input) and node.input[i] not in {'', *constant}:
                wrong.append(
                    f'{node.op_type} of {what} that is not constant ({node.name})'
                )
        if node.op_type == 'Resize':
            modes = {a.name: a.s.decode() for a in node.attribute if a.s}
            wrong += [
                f'Resize with {key} {modes[key]} ({node.name})'
                for key, known in RESIZE_MODES.items()
                if modes.get(key, known[0]) not in known
            ]
    types = list_types(model)
    wrong += [f'{types[n]} ({n})' for n in sorted(types) if types[n] in UNKNOWN_TYPES]
    if wrong:
        raise UserError(
            f"TensorRT's ONNX parser does not take {', '.join(wrong)}: choose another "
            'backbone or neck, or another format'
        )


def list_types(model: 'ModelProto') -> dict[str, str]:
    """ONNX's names of the types of a model's tensors, by the tensor."""
    from onnx import TensorProto
    from onnx.shape_inference import infer_shapes

    graph = infer_shapes(model).graph
    types = {i.name: i.data_type for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: TensorProto.DataType.Name(number) for name, number in types.items()}


def list_constants(model: 'ModelProto') -> dict[str, np.ndarray]:
    """Tensors of an ONNX model that are fixed, by name."""
    from onnx.numpy_helper import to_array

    arrays = {i.name: to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant':
            arrays[node.output[0]] = to_array(node.attribute[0].t)
    return arrays


def build_engine(path: Path, engine: Path, metadata: Metadata) -> None:
    """Builds an engine of an ONNX file, as the line of ``trtexec`` does.

    Args:
        path: ONNX file, in the types that layers are to have.
        engine: File to write.
        metadata: Of the file.

    Raises:
        UserError: TensorRT's parser or builder refuses the file; the message has its
            reasons.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, '')  # EfficientNMS
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise UserError(f'TensorRT does not read it: {"; ".join(faults)}', file=path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    shapes = get_shape_range(metadata)
    if len(set(shapes)) > 1:
        profile = builder.create_optimization_profile()
        profile.set_shape('images', *shapes)
        config.add_optimization_profile(profile)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise UserError('TensorRT builds no engine of it; see its messages', file=path)
    engine.write_bytes(content)


def get_shape_range(metadata: Metadata) -> list[tuple[int, int, int, int]]:
    """Minimum, usual and maximum shape of the input (B, C, H, W)."""
    wanted = metadata['input']
    size = to_pair(wanted['size'])
    min_size = (64, 64) if wanted['dynamic_size'] else size
    batch = wanted['batch']
    min_batch, max_batch = (1, MAX_BATCH) if batch is None else (batch, batch)
    channels = count_channels(metadata)
    return [
        (min_batch, channels, *min_size),
        (min_batch, channels, *size),
        (max_batch, channels, *size),
    ]


class EngineSession(Session):
    """An engine as the runtime's other sessions, with torch's memory on the GPU.

    Its execution context is for one thread at a time.
    """

    package = 'tensorrt'

    def __init__(self, engine: Path, metadata: Metadata) -> None:
        import tensorrt as trt

        self.metadata = metadata
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = runtime.deserialize_cuda_engine(engine.read_bytes())
        if self.engine is None:
            raise UserError(
                'TensorRT does not take the engine: it is damaged, or was built by '
                'another version or for another GPU',
                file=engine,
            )
        self.context = self.engine.create_execution_context()
        names = [
            self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)
        ]
        self.outputs = [name for name in names if name != 'images']
        shapes = [
            [None if side < 0 else side for side in self.engine.get_tensor_shape(name)]
            for name in names
            if name == 'images'
        ]
        check_inputs(shapes, metadata, engine)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import tensorrt as trt

        given = torch.from_numpy(images).cuda()
        self.context.set_input_shape('images', given.shape)
        tensors = {'images': given}
        for name in self.outputs:
            dtype = trt.nptype(self.engine.get_tensor_dtype(name))
            shape = tuple(self.context.get_tensor_shape(name))
            tensors[name] = torch.from_numpy(np.empty(shape, dtype)).cuda()
        for name, tensor in tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.Stream()
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in self.outputs}


class EngineDetector(Detector):
    """The runtime's detector on an engine, which holds no metadata of its own."""

    def __init__(self, engine: Path, metadata: Metadata) -> None:
        self._use(engine, EngineSession(engine, metadata))
