"""A detector as an ONNX graph: the network, and non-maximum suppression behind it.

ONNX is also the way to OpenVINO and TensorRT. The libraries are imported where they are
used, since they come by an extra.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import KEY, OUTPUTS
from .candidates import STRIDE, Candidates

OPSET = 18
CANDIDATES = ('candidate_boxes', 'candidate_scores')
# From images (B, 3, H, W) to boxes (B, N, 4) and scores (B, N, C) of all candidates.
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

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
TWO_D = ('AveragePool', 'MaxPool')  # or three dimensions

# Suppresses overlapping boxes, as ONNX text. B images, K boxes in each.
ONNX_NMS = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
nms (float[{B},N,4] candidate_boxes, float[{B},N,C] candidate_scores) => (
    int32[{B},1] num_detections, float[{B},{K},4] boxes, float[{B},{K}] scores,
    int32[{B},{K}] labels)
{{
    by_class = Transpose <perm = [0, 2, 1]> (candidate_scores)
    limit = Constant <value = int64[1] {{{K}}}> ()
    iou = Constant <value = float[1] {{{iou_threshold}}}> ()
    least = Constant <value = float[1] {{{score_thr}}}> ()
    kept = NonMaxSuppression (candidate_boxes, by_class, limit, iou, least)
    kept_scores = GatherND (by_class, kept)

    zero = Constant <value = float {{0}}> ()
    none = Constant <value = int64 {{-1}}> ()
    padded = Constant <value = int64[2] {{{K}, 3}}> ()
    no_rows = ConstantOfShape <value = int64[1] {{0}}> (padded)
    no_scores = ConstantOfShape <value = float[1] {{0}}> (limit)
    rows = Concat <axis = 0> (kept, no_rows)
    row_scores = Concat <axis = 0> (kept_scores, no_scores)
    first = Constant <value = int64 {{0}}> ()
    second = Constant <value = int64 {{1}}> ()
    third = Constant <value = int64 {{2}}> ()
    of_image = Gather <axis = 1> (rows, first)
    of_class = Gather <axis = 1> (rows, second)
    of_box = Gather <axis = 1> (rows, third)

    sizes = Shape (candidate_boxes)
    images = Gather <axis = 0> (sizes, first)
    numbers = Range (first, images, second)
    at_one = Constant <value = int64[1] {{1}}> ()
    at_two = Constant <value = int64[1] {{2}}> ()
    column = Unsqueeze (numbers, at_one)
    mine = Equal (column, of_image)
    my_scores = Where (mine, row_scores, zero)
    scores, order = TopK <axis = 1> (my_scores, limit)

    found = Greater (scores, zero)
    found_class = Gather <axis = 0> (of_class, order)
    long_labels = Where (found, found_class, none)
    labels = Cast <to = 6> (long_labels)
    found_box = Gather <axis = 0> (of_box, order)
    index = Unsqueeze (found_box, at_two)
    all_boxes = GatherND <batch_dims = 1> (candidate_boxes, index)
    found_each = Unsqueeze (found, at_two)
    boxes = Where (found_each, all_boxes, zero)
    ones = Cast <to = 6> (found)
    num_detections = ReduceSum <keepdims = 1> (ones, at_one)
}}
"""
EFFICIENT_NMS = """
<ir_version: {ir}, opset_import: ["" : {opset}, "TRT" : 1]>
nms (float[{B},N,4] candidate_boxes, float[{B},N,C] candidate_scores) => (
    int32[{B},1] num_detections, float[{B},{K},4] boxes, float[{B},{K}] scores,
    int32[{B},{K}] labels)
{{
    num_detections, boxes, scores, labels = TRT.EfficientNMS_TRT <
        plugin_version = "1", background_class = -1, box_coding = 0,
        score_activation = 0, class_agnostic = 0, max_output_boxes = {K},
        score_threshold = {score_thr}, iou_threshold = {iou_threshold}
    > (candidate_boxes, candidate_scores)
}}
"""


@contextmanager
def quietly():
    """Keeps converters from printing their own progress and what they deprecate."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter('ignore')
        yield


def example(size: Sequence[int], batch: int | None) -> Tensor:
    """An image batch to trace with; a dimension of 1 could not become dynamic."""
    return torch.zeros(batch or 2, 3, *size)


def exported_program(
    network: nn.Module,
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
) -> torch.export.ExportedProgram:
    """``network`` as torch exports it.

    Args:
        network: A module from images (B, 3, H, W).
        size: H and W, multiples of 32.
        batch: B; ``None`` for any.
        dynamic_size: Whether H and W may be any multiples of 32 from 64.
    """
    dims = {}
    if batch is None:
        dims[0] = torch.export.Dim('batch', min=1)
    if dynamic_size:
        size = [max(side, 2 * STRIDE) for side in size]
        dims[2] = STRIDE * torch.export.Dim('rows', min=2)
        dims[3] = STRIDE * torch.export.Dim('columns', min=2)
        if size[0] == size[1]:  # equal sides would be taken for one
            size = [size[0], size[1] + STRIDE]
    with torch.no_grad(), quietly():
        return torch.export.export(
            network, (example(size, batch),), dynamic_shapes=(dims or None,)
        )


def onnx_network(
    candidates: Candidates,
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
):
    """An ``onnx.ModelProto`` from ``images`` to boxes and scores of all candidates.

    Arguments are those of :func:`exported_program`. The outputs are called
    ``candidate_boxes`` (B, N, 4) and ``candidate_scores`` (B, N, C).
    """
    import onnxslim

    program = exported_program(candidates, size, batch, dynamic_size)
    with torch.no_grad(), quietly():
        model = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=['images'],
            output_names=[*CANDIDATES],
            verbose=False,
        ).model_proto
        model = onnxslim.slim(model)
    name_sizes(model, batch, dynamic_size)
    return model


def name_sizes(model, batch: int | None, dynamic_size: bool) -> None:
    """Gives what is dynamic plain names, where torch's are formulas."""
    graph = model.graph
    names = ['batch', None, 'height', 'width'] if dynamic_size else ['batch']
    for name, dim in zip(names, graph.input[0].type.tensor_type.shape.dim):
        if name and dim.dim_param:
            dim.dim_param = name
    for output in graph.output:
        for name, dim in zip(('batch', 'N'), output.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = name
    del graph.value_info[:]  # of inner tensors, in torch's names


def with_nms(model, nms: dict[str, object], efficient: bool = False):
    """An ONNX network followed by non-maximum suppression.

    Args:
        model: What :func:`onnx_network` gave, quantised or not.
        nms: ``nms`` of the metadata.
        efficient: TensorRT's plugin EfficientNMS in place of ONNX's operator.

    Returns:
        A model with the outputs ``num_detections`` (B, 1), ``boxes`` (B, K, 4),
        ``scores`` (B, K), falling, and ``labels`` (B, K), K being ``max_per_img``.
        Behind the detections ONNX's has score 0 and label -1.
    """
    import onnx

    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    text = (EFFICIENT_NMS if efficient else ONNX_NMS).format(
        ir=model.ir_version,
        opset=next(o.version for o in model.opset_import if not o.domain),
        B=batch.dim_param or batch.dim_value,
        K=nms['max_per_img'],
        iou_threshold=float(nms['iou_threshold']),
        score_thr=float(nms['score_thr']),
    )
    tail = onnx.parser.parse_model(text)
    tail = onnx.compose.add_prefix(tail, 'nms/', rename_inputs=False)
    for value, name in zip(tail.graph.output, OUTPUTS):
        rename(tail.graph, value.name, name)
    whole = onnx.compose.merge_models(model, tail, [(n, n) for n in CANDIDATES])
    versions = {o.domain: o.version for o in whole.opset_import}  # each is there twice
    del whole.opset_import[:]
    whole.opset_import.extend(onnx.helper.make_opsetid(*o) for o in versions.items())
    return whole


def rename(graph, old: str, new: str) -> None:
    """Gives a tensor of an ONNX graph another name."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new


def without_nms(model):
    """An ONNX network whose outputs are called ``boxes`` and ``scores``."""
    model = type(model).FromString(model.SerializeToString())
    for name in ('boxes', 'scores'):
        rename(model.graph, f'candidate_{name}', name)
    return model


def save_onnx(model, facts: dict[str, object], path: Path) -> None:
    """Writes a model with its metadata, after ONNX's own checks of it."""
    import onnx

    model = type(model).FromString(model.SerializeToString())
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(facts)
    model.producer_name = 'mmnextvit'
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def candidates_by_onnxruntime(model) -> Run:
    """The run of an ONNX network of candidates."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return lambda images: tuple(session.run(None, {'images': images}))


def check_tensorrt(model) -> None:
    """Compares a model with what TensorRT's ONNX parser knows.

    Raises:
        ValueError: It has an operator that the parser doesn't know, or one in a form
            that it doesn't.
    """
    wrong = sorted({n.op_type for n in model.graph.node} - TENSORRT_OPERATORS)
    constant = constants(model)
    for node in model.graph.node:
        kernel = next((a.ints for a in node.attribute if a.name == 'kernel_shape'), ())
        if node.op_type in TWO_D and len(kernel) == 1:
            wrong.append(f'{node.op_type} in one dimension ({node.name})')
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            zero = constant.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and (zero.dtype != np.int8 or zero.any()):
                wrong.append(f'{node.op_type} that is not int8 around 0 ({node.name})')
        if node.op_type == 'TopK' and node.input[1] not in constant:
            wrong.append(f'TopK of a number that is not constant ({node.name})')
    if wrong:
        raise ValueError(
            f"TensorRT's ONNX parser does not take {', '.join(wrong)}: choose another "
            'backbone or neck, or another format'
        )


def constants(model) -> dict[str, np.ndarray]:
    """Tensors of an ONNX model that are fixed, by name."""
    from onnx.numpy_helper import to_array

    found = {i.name: to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant':
            found[node.output[0]] = to_array(node.attribute[0].t)
    return found
