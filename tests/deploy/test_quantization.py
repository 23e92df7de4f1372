"""int8: what the quantisers do to the network that they are given."""

from collections.abc import Callable

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy.quantization import quantize, quantize_signed

import numpy as np
import onnx
import pytest


@pytest.fixture
def network() -> onnx.ModelProto:
    """Two convolutions, whose weights are large enough for a file of their own."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18]>
        network (float[1,3,32,32] images) => (float[1,8,32,32] output) {
            inner = Conv <pads = [1, 1, 1, 1]> (images, first)
            output = Conv <pads = [1, 1, 1, 1]> (inner, last)
        }
        """
    )
    generator = np.random.default_rng(0)
    for name, shape in dict(first=(32, 3, 3, 3), last=(8, 32, 3, 3)).items():
        weights = generator.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    for node in model.graph.node:
        node.name = node.output[0]
    return model


@pytest.mark.parametrize('quantizer', [quantize, quantize_signed])
def test_the_network_stays_as_it_was(network: onnx.ModelProto, quantizer: Callable):
    before = network.SerializeToString()
    generator = np.random.default_rng(1)
    images = [generator.random((1, 3, 32, 32), np.float32) for _ in range(2)]
    assert any(
        node.op_type == 'QuantizeLinear'
        for node in quantizer(network, images).graph.node
    )
    assert network.SerializeToString() == before
