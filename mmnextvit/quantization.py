"""int8: a network's weights and maps in 8 bits, calibrated on pictures."""

from collections.abc import Sequence

import numpy as np

from .onnx_graph import quietly


def quantize(network, pictures: Sequence[np.ndarray]):
    """An ONNX network of candidates in int8, by NNCF.

    Weights have a scale for each channel out, maps one each; softmax, normalisation and
    decoding stay in float. Biases are corrected for what rounding shifts.

    Args:
        network: What :func:`~mmnextvit.onnx_graph.onnx_network` gave.
        pictures: Batches (B, 3, H, W), float32, as the network takes them.
    """
    import nncf

    data = nncf.Dataset(pictures, lambda images: {'images': images})
    with quietly():
        return nncf.quantize(
            network,
            data,
            subset_size=len(pictures),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
        )
