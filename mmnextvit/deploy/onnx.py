"""A detector as an ONNX graph: the network, and non-maximum suppression behind it.

ONNX is also the way to OpenVINO and TensorRT. The libraries are imported where they are
used, since they come by an extra.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..runtime import (
    KEY,
    Metadata,
    Thresholds,
    name_file,
    parse_metadata,
)
from .candidates import Candidates
from .job import Job, Run, Written
from .quantization import list_float_layers, quantize
from .sensitivity import Int8
from .tracing import export_program, silence_converters

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OPSET = 18
# What masks are made of has no other name without NMS: prototypes pass it as they are.
CANDIDATES = {
    'boxes': 'candidate_boxes',
    'scores': 'candidate_scores',
    'coefficients': 'candidate_coefficients',
}

# Suppresses overlapping boxes, as ONNX text. B images, K boxes in each. A candidate
# whose score is NaN is suppressed as one of 0 is; where there is one, all scores of the
# image become NaN, so that broken weights are not taken for an empty image.
ONNX_NMS = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
nms (float[{B},N,4] candidate_boxes, float[{B},N,C] candidate_scores{inputs}) => (
    int32[{B},1] num_detections, float[{B},{K},4] boxes, float[{B},{K}] scores,
    int32[{B},{K}] labels{outputs})
{{
    by_class = Transpose <perm = [0, 2, 1]> (candidate_scores)
    limit = Constant <value = int64[1] {{{K}}}> ()
    iou = Constant <value = float[1] {{{iou_threshold}}}> ()
    min_score = Constant <value = float[1] {{{score_thr}}}> ()
    kept = NonMaxSuppression (candidate_boxes, by_class, limit, iou, min_score)
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
    best_scores, order = TopK <axis = 1> (my_scores, limit)

    is_real = Greater (best_scores, zero)
    real_class = Gather <axis = 0> (of_class, order)
    long_labels = Where (is_real, real_class, none)
    labels = Cast <to = 6> (long_labels)
    real_box = Gather <axis = 0> (of_box, order)
    index = Unsqueeze (real_box, at_two)
    all_boxes = GatherND <batch_dims = 1> (candidate_boxes, index)
    real_each = Unsqueeze (is_real, at_two)
    boxes = Where (real_each, all_boxes, zero)
    ones = Cast <to = 6> (is_real)
    num_detections = ReduceSum <keepdims = 1> (ones, at_one)

    inner = Constant <value = int64[2] {{1, 2}}> ()
    total = ReduceSum <keepdims = 0> (candidate_scores, inner)
    size = Abs (total)
    max_size = Constant <value = float {{3e38}}> ()
    is_finite = Less (size, max_size)
    finite_each = Unsqueeze (is_finite, at_one)
    total_each = Unsqueeze (total, at_one)
    scores = Where (finite_each, best_scores, total_each)
{rest}}}
"""
# The same for candidates with the coefficients of masks, which NMS carries along.
WITH_MASKS = {
    'inputs': ', float[{B},N,M] candidate_coefficients',
    'outputs': ', float[{B},{K},M] coefficients',
    'rest': """
    all_coefficients = GatherND <batch_dims = 1> (candidate_coefficients, index)
    coefficients = Where (real_each, all_coefficients, zero)
""",
}
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


def build_network(
    candidates: Candidates,
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
) -> 'ModelProto':
    """An ONNX model from ``images`` to boxes and scores of all candidates.

    Arguments are those of :func:`~mmnextvit.deploy.tracing.export_program`. The
    outputs are called ``candidate_boxes`` (B, N, 4) and ``candidate_scores`` (B, N, C);
    with masks there are ``candidate_coefficients`` (B, N, M) and ``prototypes``
    (B, M, h, w), too.
    """
    import onnxslim

    program = export_program(candidates, size, batch, dynamic_size)
    names = [*CANDIDATES.values(), 'prototypes']
    if not candidates.mask_channels:
        names = names[:2]
    with torch.no_grad(), silence_converters():
        model = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=['images'],
            output_names=names,
            verbose=False,
        ).model_proto
        model = onnxslim.slim(model)
    name_sizes(model, batch, dynamic_size)
    return model


def name_sizes(model: 'ModelProto', batch: int | None, dynamic_size: bool) -> None:
    """Gives dynamic sizes plain names, where torch's are formulas."""
    graph = model.graph
    names = ['batch', None, 'height', 'width'] if dynamic_size else ['batch']
    for name, dim in zip(names, graph.input[0].type.tensor_type.shape.dim):
        if name and dim.dim_param:
            dim.dim_param = name
    for output in graph.output:
        names = ['batch', 'N']
        if output.name == 'prototypes':
            names = ['batch', None, 'rows', 'columns']
        for name, dim in zip(names, output.type.tensor_type.shape.dim):
            if name and dim.dim_param:
                dim.dim_param = name
    del graph.value_info[:]  # of inner tensors, in torch's names


def add_nms(
    model: 'ModelProto', nms: Thresholds, efficient: bool = False
) -> 'ModelProto':
    """An ONNX network followed by non-maximum suppression.

    Args:
        model: What :func:`build_network` gave, quantised or not.
        nms: ``nms`` of the metadata.
        efficient: Whether to use TensorRT's plugin EfficientNMS in place of ONNX's
            operator.

    Returns:
        A model with the outputs ``num_detections`` (B, 1), ``boxes`` (B, K, 4),
        ``scores`` (B, K), falling, and ``labels`` (B, K), K being ``max_per_img``; with
        masks also ``coefficients`` (B, K, M) and ``prototypes``. Behind the detections
        ONNX's has score 0 and label -1. Of an image with a candidate that is NaN all
        scores are.
    """
    import onnx

    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    has = {output.name for output in model.graph.output}
    sizes = {'B': batch.dim_param or batch.dim_value, 'K': nms['max_per_img']}
    masks = dict.fromkeys(WITH_MASKS, '')
    if CANDIDATES['coefficients'] in has:
        masks = {name: text.format(**sizes) for name, text in WITH_MASKS.items()}
    text = (EFFICIENT_NMS if efficient else ONNX_NMS).format(
        ir=model.ir_version,
        opset=next(o.version for o in model.opset_import if not o.domain),
        iou_threshold=float(nms['iou_threshold']),
        score_thr=float(nms['score_thr']),
        **sizes,
        **masks,
    )
    tail = onnx.parser.parse_model(text)
    tail = onnx.compose.add_prefix(tail, 'nms/', rename_inputs=False)
    for value in tail.graph.output:
        rename(tail.graph, value.name, value.name.removeprefix('nms/'))
    whole = onnx.compose.merge_models(
        model, tail, [(n, n) for n in CANDIDATES.values() if n in has]
    )
    versions = {o.domain: o.version for o in whole.opset_import}  # each is there twice
    del whole.opset_import[:]
    whole.opset_import.extend(onnx.helper.make_opsetid(*o) for o in versions.items())
    return whole


def rename(graph: 'GraphProto', old: str, new: str) -> None:
    """Gives a tensor of an ONNX graph another name."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new


def leave_nms_out(model: 'ModelProto') -> 'ModelProto':
    """A copy of an ONNX network with the outputs called ``boxes``, ``scores``, ..."""
    model = type(model).FromString(model.SerializeToString())
    for name, candidates in CANDIDATES.items():
        rename(model.graph, candidates, name)
    return model


def save(model: 'ModelProto', metadata: Metadata, path: Path) -> None:
    """Writes a model with its metadata, after ONNX's own checks of it."""
    import onnx

    model = type(model).FromString(model.SerializeToString())
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(metadata)
    model.producer_name = 'mmnextvit'
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def read_metadata(path: Path) -> Metadata:
    """The metadata in an ONNX file, whether or not this machine can run it.

    Raises:
        ModelFileError: As of :func:`~mmnextvit.runtime.parse_metadata`.
    """
    import onnx

    with name_file(path, 'onnx'):
        properties = onnx.load(path, load_external_data=False).metadata_props
    texts = {entry.key: entry.value for entry in properties}
    return parse_metadata(texts.get(KEY), path)


def run_by_onnxruntime(model: 'ModelProto') -> Run:
    """The run of an ONNX network of candidates."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return lambda images: tuple(session.run(None, {'images': images}))


def convert(
    job: Job, quantizer: Callable[..., 'ModelProto'] = quantize
) -> tuple['ModelProto', list[str]]:
    """The job's network in ONNX, quantised where int8 is asked for.

    Args:
        job: What is to be written.
        quantizer: Makes int8 of a network, given its batches to calibrate with.

    Returns:
        The network, and the names of the layers that int8 leaves in float.
    """
    if job.metadata['precision'] != 'int8':
        return build_network(job.candidates, **job.shape), []
    int8 = job.int8 or quantize_job(job, quantizer)
    network = int8.leave_in_float(job.in_float)
    return network, list_float_layers(network)


def quantize_job(job: Job, quantizer: Callable[..., 'ModelProto'] = quantize) -> Int8:
    """The job's network in float and in int8.

    Args:
        job: What is to be written.
        quantizer: As of :func:`convert`.
    """
    network = build_network(job.candidates, **job.shape)
    return Int8(network, quantizer(network, job.calibration))


def complete(network: 'ModelProto', job: Job) -> 'ModelProto':
    """A network with the outputs that the job wants, by NMS or without it."""
    if not job.metadata['nms']['in_graph']:
        return leave_nms_out(network)
    return add_nms(network, job.metadata['nms'], job.efficient_nms)


def write(job: Job, path: Path) -> Written:
    """Writes an ONNX file."""
    network, float_layers = convert(job)
    save(complete(network, job), job.metadata, path)
    return Written(run_by_onnxruntime(network), read_metadata(path), float_layers)
