"""int8: a network's weights and maps in 8 bits, calibrated on pictures."""

import logging
from collections.abc import Sequence

import numpy as np


def quantize(network, pictures: Sequence[np.ndarray]):
    """An ONNX network of candidates in int8, by NNCF.

    Weights have a scale for each channel out, maps one each; softmax, normalisation and
    decoding stay in float. Biases are corrected for what rounding shifts.

    Args:
        network: What :func:`~mmnextvit.onnx_graph.onnx_network` gave.
        pictures: Batches (B, 3, H, W), float32, as the network takes them.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)  # its bars stay
    return nncf.quantize(
        network,
        nncf.Dataset(pictures, lambda images: {'images': images}),
        subset_size=len(pictures),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )


# What passes values on as they are, so that they stay in 8 bits.
MOVES = ('Concat', 'Reshape', 'Transpose', 'MaxPool', 'Resize', 'Slice', 'Squeeze')


def float_layers(network) -> list[str]:
    """Names of the convolutions and matrix products that do not compute in 8 bits.

    Args:
        network: What :func:`quantize` gave.
    """
    source = {output: node for node in network.graph.node for output in node.output}

    def in_8_bits(name: str) -> bool:
        node = source.get(name)
        if node is None:
            return False
        if node.op_type in MOVES:
            inputs = node.input if node.op_type == 'Concat' else node.input[:1]
            return all(map(in_8_bits, inputs))
        return node.op_type == 'DequantizeLinear'

    return [
        node.name
        for node in network.graph.node
        if node.op_type in ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
        and not all(map(in_8_bits, node.input[:2]))
    ]
