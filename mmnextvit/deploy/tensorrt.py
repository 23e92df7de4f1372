"""A TensorRT engine of an exported file, where TensorRT and a GPU of NVIDIA are.

Engines belong to one GPU and one version of TensorRT, so that the ONNX file is what is
kept and passed on; the engine is built to compare it with torch.
"""

from pathlib import Path

import numpy as np
import torch

from ..runtime import Detector

MOST = 16  # images at a time, where the file has a dynamic batch
WORKSPACE = 4 << 30  # bytes


def build_engine(path: Path, engine: Path, facts: dict[str, object]) -> None:
    """Builds an engine of an ONNX file, as the line of ``trtexec`` does.

    Args:
        path: ONNX file, in the types that layers are to have.
        engine: File to write.
        facts: The metadata.

    Raises:
        ValueError: TensorRT's parser or builder refuses the file; the message has its
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
        raise ValueError(f'{path}: TensorRT does not read it: {"; ".join(faults)}')
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    shapes = shape_range(facts)
    if len(set(shapes)) > 1:
        profile = builder.create_optimization_profile()
        profile.set_shape('images', *shapes)
        config.add_optimization_profile(profile)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise ValueError(f'{path}: TensorRT builds no engine of it; see its messages')
    engine.write_bytes(content)


def shape_range(facts: dict[str, object]) -> list[tuple[int, int, int, int]]:
    """Least, usual and largest shape of the input (B, 3, H, W)."""
    wanted = facts['input']
    size = tuple(wanted['size'])
    least = (64, 64) if wanted['dynamic_size'] else size
    few, many = (1, MOST) if wanted['batch'] is None else (wanted['batch'],) * 2
    return [(few, 3, *least), (few, 3, *size), (many, 3, *size)]


class EngineSession:
    """An engine as the runtime's other sessions, with torch's memory on the GPU."""

    def __init__(self, engine: Path, facts: dict[str, object]) -> None:
        import tensorrt as trt

        self.metadata = facts
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = runtime.deserialize_cuda_engine(engine.read_bytes())
        self.context = self.engine.create_execution_context()
        names = [
            self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)
        ]
        self.outputs = [name for name in names if name != 'images']

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import tensorrt as trt

        given = torch.from_numpy(images).cuda()
        self.context.set_input_shape('images', given.shape)
        tensors = {'images': given}
        for name in self.outputs:
            kind = trt.nptype(self.engine.get_tensor_dtype(name))
            shape = tuple(self.context.get_tensor_shape(name))
            tensors[name] = torch.from_numpy(np.empty(shape, kind)).cuda()
        for name, tensor in tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.Stream()
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in self.outputs}


class EngineDetector(Detector):
    """The runtime's detector on an engine, which holds no metadata of its own."""

    def __init__(self, engine: Path, facts: dict[str, object]) -> None:
        self.path = engine
        self._use(EngineSession(engine, facts))
