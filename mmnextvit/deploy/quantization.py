"""int8: a network's weights and feature maps in 8 bits, calibrated on images."""

import copy
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def quantize(network: 'ModelProto', images: Sequence[np.ndarray]) -> 'ModelProto':
    """An ONNX network of candidates in int8, by NNCF.

    Weights have a scale for each output channel, feature maps one each. The last
    layers, softmax, normalisation and decoding stay in float: the last layers, whose
    output is decoded by squares and strides, would cost most of the accuracy that is
    lost, and they are small. Biases are corrected for what rounding shifts.

    Args:
        network: What :func:`~mmnextvit.deploy.onnx.build_network` gave.
        images: Batches (B, 3, H, W), float32, as the network takes them.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)  # its bars stay
    return nncf.quantize(
        network,
        nncf.Dataset(images, lambda inputs: {'images': inputs}),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=list_last_layers(network)),
    )


def quantize_signed(
    network: 'ModelProto', images: Sequence[np.ndarray]
) -> 'ModelProto':
    """As :func:`quantize`, but with zero points of 0, which TensorRT demands.

    NNCF makes uint8 of values that are never negative. Here ONNX Runtime quantises
    convolutions and linear layers; biases stay in float.
    """
    import onnx
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(track(images, 'Calibrating'))

        def get_next(self) -> dict[str, np.ndarray] | None:
            inputs = next(self.left, None)
            return None if inputs is None else {'images': inputs}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'network.onnx')
        ort.quantize_static(
            copy.deepcopy(network),  # its weights are moved to a file
            path,
            Reader(),
            op_types_to_quantize=['Conv', 'ConvTranspose', 'Gemm'],
            nodes_to_exclude=list_last_layers(network),
            per_channel=True,
            activation_type=ort.QuantType.QInt8,
            weight_type=ort.QuantType.QInt8,
            extra_options={
                'ActivationSymmetric': True,
                'WeightSymmetric': True,
                'QuantizeBias': False,
            },
        )
        return onnx.load(path)


def map_sources(network: 'ModelProto') -> dict[str, 'NodeProto']:
    """Which node of an ONNX model gives each tensor, by the tensor's name."""
    return {output: node for node in network.graph.node for output in node.output}


def list_last_layers(network: 'ModelProto') -> list[str]:
    """Names of the convolutions that nothing but decoding follows."""
    source = map_sources(network)
    waiting = [output.name for output in network.graph.output]
    seen, last = set(), []
    while waiting:
        node = source.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == 'Conv':
            last.append(node.name)
        else:
            waiting += node.input
    return sorted(last)


# Operators that pass values on as they are, so that those stay in 8 bits.
MOVES = ('Concat', 'Reshape', 'Transpose', 'MaxPool', 'Resize', 'Slice', 'Squeeze')


def list_float_layers(network: 'ModelProto') -> list[str]:
    """Names of the convolutions and matrix products that do not compute in 8 bits.

    Args:
        network: What :func:`quantize` gave.
    """
    source = map_sources(network)

    def is_in_8_bits(name: str) -> bool:
        node = source.get(name)
        if node is None:
            return False
        if node.op_type in MOVES:
            inputs = node.input if node.op_type == 'Concat' else node.input[:1]
            return all(map(is_in_8_bits, inputs))
        return node.op_type == 'DequantizeLinear'

    return [
        node.name
        for node in network.graph.node
        if node.op_type in ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
        and not all(map(is_in_8_bits, node.input[:2]))
    ]
