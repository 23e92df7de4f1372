"""A file that its runtime has loaded, one class for each format."""

import ctypes
import hashlib
import json
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from .errors import MissingModelError, ModelFileError, OptionError
from .metadata import KEY, MAX_METADATA, Metadata, count_channels, parse_metadata
from .outputs import list_outputs
from .packages import import_runtime, name_file
from .programs import check_program


class Session(Protocol):
    """A file that its runtime has loaded.

    Attributes:
        package: The runtime.
        metadata: What the exporter wrote into the file.
        concurrent: Whether several threads may be in :meth:`run` at once. Where a
            session does not say that, the detector lets one in after another.
    """

    package: str
    metadata: Metadata
    concurrent: bool = False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, for the network's input (B, 3, H, W).

        They are arrays of their own, which no later call changes.
        """
        ...


def check_inputs(
    shapes: Sequence[Sequence[int | None]], metadata: Metadata, path: Path
) -> None:
    """Makes sure that a network takes what its metadata say.

    Args:
        shapes: Of its inputs; ``None`` stands for any number.
        metadata: Of the same file.
        path: The file.

    Raises:
        ModelFileError: It has not one input, or one of another shape.
    """
    wanted = metadata['input']
    size = [None, None] if wanted['dynamic_size'] else wanted['size']
    asked = (wanted['batch'], count_channels(metadata), *size)
    fits = len(shapes) == 1 and len(shapes[0]) == len(asked)
    if fits and all(has in (None, side) for has, side in zip(shapes[0], asked)):
        return
    texts = (
        ' x '.join('any' if side is None else str(side) for side in shape) or 'a number'
        for shape in (*shapes[:3], asked)
    )
    *has, asked_text = texts
    raise ModelFileError(
        f'{path} has a network that takes {" and ".join(has) or "nothing"}, and '
        f'metadata that say {asked_text}: export the checkpoint again'
    )


class ONNXSession(Session):
    """ONNX Runtime on ``'cpu'``, ``'cuda'`` or ``'cuda:1'``."""

    package = 'onnxruntime'
    concurrent = True  # InferenceSession.run is, by its documentation

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ort = import_runtime(self.package, 'onnx')
        name, _, index = device.lower().partition(':')
        wanted = {'cpu': 'CPU', 'cuda': 'CUDA'}.get(name, device) + 'ExecutionProvider'
        options = ort.SessionOptions()
        options.log_severity_level = 4  # only what ends the process: errors are raised
        options.intra_op_num_threads = threads or 0
        has = ort.get_available_providers()
        if wanted in has:
            provider = (wanted, {'device_id': index} if index else {})
            with name_file(path, self.package):
                # It would try the CPU next, and print that; there is no other for it.
                self.session = ort.InferenceSession(
                    str(path), options, [provider], enable_fallback=name != 'cpu'
                )
            has = self.session.get_providers()  # without those that do not start
        if wanted not in has:
            raise OptionError(
                f'device={device!r}: ONNX Runtime has no {wanted} here, or it does not '
                f'start, but {", ".join(has)}. For CUDA: pip install onnxruntime-gpu '
                'in place of onnxruntime, and the CUDA and cuDNN that it wants'
            )
        with name_file(path, self.package):
            text = self.session.get_modelmeta().custom_metadata_map.get(KEY, '')
            inputs = self.session.get_inputs()
            shapes = [
                [side if isinstance(side, int) else None for side in one.shape]
                for one in inputs
            ]
            self.outputs = [output.name for output in self.session.get_outputs()]
        self.metadata = parse_metadata(text, path)
        check_inputs(shapes, self.metadata, path)
        self.input = inputs[0].name

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(None, {self.input: images})))


@contextmanager
def keeping_signal_stack() -> Iterator[None]:
    """Leaves the stack on which this thread handles signals as it is.

    OpenVINO's compiler sets one of its own and frees it with the model: the next
    signal, as of Ctrl-C, ended the process with a segmentation fault.
    """
    if sys.platform != 'linux':
        yield
        return
    change, before = ctypes.CDLL(None).sigaltstack, ctypes.create_string_buffer(64)
    known = change(None, before) == 0
    try:
        yield
    finally:
        if known:
            change(before, None)


class OpenVINOSession(Session):
    """OpenVINO on ``'cpu'``, ``'gpu'``, ``'auto'``: any device that it has.

    A compiled model that is called has one infer request for all threads, which gives
    one the other's outputs. So each call here has a request to itself, of as many as
    the device computes at once; the next call waits for one.
    """

    package = 'openvino'
    concurrent = True

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ov = import_runtime(self.package, 'openvino')
        core, device = ov.Core(), device.upper()
        with name_file(path, self.package):
            model = core.read_model(path)
            text = read_openvino_metadata(model)
            shapes = [
                [side.get_length() if side.is_static else None for side in shape]
                for shape in (one.get_partial_shape() for one in model.inputs)
            ]
        self.metadata = parse_metadata(text, path)
        check_inputs(shapes, self.metadata, path)
        options: dict[str, str | int] = {'PERFORMANCE_HINT': 'LATENCY'}
        if self.metadata.get('precision') != 'half':
            # Unasked, it takes bfloat16 where the processor has that.
            options['INFERENCE_PRECISION_HINT'] = 'f32'
        elif device == 'CPU':
            able = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
            options['INFERENCE_PRECISION_HINT'] = 'bf16' if 'BF16' in able else 'f32'
        if threads:
            options['INFERENCE_NUM_THREADS'] = threads
        try:
            with keeping_signal_stack():
                self.model = core.compile_model(model, device, options)
        except RuntimeError as error:
            raise OptionError(
                f'OpenVINO does not run {path} on device={device!r} (it has '
                f'{", ".join(core.available_devices)}): {error}'
            ) from error
        self.requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.model.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS')):
            self.requests.put(self.model.create_infer_request())

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        request = self.requests.get()
        try:  # the outputs are copies
            outputs = request.infer({0: images}, share_inputs=True, share_outputs=False)
        finally:
            self.requests.put(request)
        return {name: outputs[o] for o in self.model.outputs for name in o.names}


class TorchSession(Session):
    """A network that torch loads and runs, on the CPU."""

    package = 'torch'
    concurrent = True  # see "CPU threading and TorchScript inference" of torch

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        check_cpu(device, path)
        self.torch = import_runtime(self.package)
        if threads:
            self.torch.set_num_threads(threads)  # of the whole process
        self.metadata = read_archive_metadata(path)
        self.model = self.open_network(path)

    def open_network(self, path: Path) -> Callable[..., Sequence[Any]]:
        """The network, of a file whose metadata are ours.

        Raises:
            ModelFileError: It cannot be loaded.
        """
        raise NotImplementedError

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self.torch.inference_mode():
            outputs = self.model(self.torch.from_numpy(images))
        return name_outputs(outputs, self.metadata)


class TorchScriptSession(TorchSession):
    """A traced program (.torchscript).

    TorchScript is a program: loading it runs what it holds, so that a file from someone
    else needs as much trust as theirs. Stray files are refused before that.
    """

    def open_network(self, path: Path) -> Callable[..., Sequence[Any]]:
        if find_spec('torchvision') is not None:
            import_module('torchvision')  # its NMS may be in the file
        with name_file(path, self.package):
            return self.torch.jit.load(str(path), 'cpu')


class ProgramSession(TorchSession):
    """A program of ``torch.export`` (.pt2).

    torch unpickles and evaluates what such a file holds. Pickles, compiled code and
    texts other than plain names, which exports never have, are refused before that.
    """

    def open_network(self, path: Path) -> Callable[..., Sequence[Any]]:
        with name_file(path, self.package):
            check_program(path)
            with warnings.catch_warnings(action='ignore'):  # of read-only memory
                program = self.torch.export.load(str(path))
            inputs = {*program.graph_signature.user_inputs}
            shapes = [
                [
                    side if isinstance(side, int) else None
                    for side in n.meta['val'].shape
                ]
                for n in program.graph.find_nodes(op='placeholder')
                if n.name in inputs
            ]
        check_inputs(shapes, self.metadata, path)
        with name_file(path, self.package):
            return program.module()


class NCNNSession(Session):
    """NCNN on the CPU, an image at a time.

    NCNN trusts its files: it may end the process on a damaged one. That the two are as
    they were written, their digests say, before it sees them.
    """

    package = 'ncnn'

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        check_cpu(device, path)
        self.ncnn = import_runtime(self.package, 'ncnn')
        with name_file(path, self.package):
            content = read_ncnn_file(path)
        self.metadata = parse_metadata(json.dumps(content.get('metadata')), path)
        digests = content.get('sha256')
        parts = path, path.with_suffix('.bin')
        for part in parts:
            known = digests.get(part.name) if isinstance(digests, dict) else None
            if compute_digest(part) != known:
                raise ModelFileError(
                    f'{part} is not the file that {path.stem}.json was written for '
                    '(sha256): copy the whole folder again, or export it again'
                )
        self.net = self.ncnn.Net()
        self.net.opt.use_vulkan_compute = False
        if self.metadata.get('precision') != 'half':
            # Unasked, it takes 16 bits where the processor has them.
            for name in ('fp16_packed', 'fp16_storage', 'fp16_arithmetic'):
                setattr(self.net.opt, f'use_{name}', False)
            self.net.opt.use_bf16_storage = False
        if threads:
            self.net.opt.num_threads = threads
        with name_file(path, self.package):
            loads = self.net.load_param, self.net.load_model
            for take, part in zip(loads, parts):
                if take(str(part)) != 0:
                    raise ValueError(f'it does not load {part.name}')

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {'boxes': [], 'scores': []}
        for image in images:
            with self.net.create_extractor() as extractor:
                # A copy of NCNN's own, that may outlive the array.
                given = self.ncnn.Mat(np.ascontiguousarray(image)).clone()
                extractor.input('in0', given)
                for name, output in zip(found, ('out0', 'out1')):
                    code, values = extractor.extract(output)
                    if code != 0:
                        raise ValueError(f'it does not compute {name} (code {code})')
                    found[name].append(np.array(values, np.float32))
                    del values  # before the memory's owner
        return {name: np.stack(values) for name, values in found.items()}


def name_outputs(outputs: Sequence[Any], metadata: Metadata) -> dict[str, np.ndarray]:
    """The tensors that a program of torch gives, by name."""
    names = list_outputs(metadata['nms']['in_graph'], 'masks' in metadata)
    return {name: values.numpy() for name, values in zip(names, outputs)}


def check_cpu(device: str, path: Path) -> None:
    """
    Raises:
        OptionError: Another device is asked for.
    """
    if device.lower() != 'cpu':
        raise OptionError(f'device={device!r}: {path} was made for the CPU')


def compute_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def read_ncnn_file(path: Path) -> dict[str, Any]:
    """What stands beside a ``.param`` of NCNN's: its metadata and the digests.

    Raises:
        ValueError: It is no JSON object.
    """
    file = path.with_suffix('.json')
    if file.stat().st_size > 4 * MAX_METADATA:
        raise ValueError(f'{file.name} is too large')
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file.name} is no JSON: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{file.name} is no JSON object')
    return content


def read_openvino_metadata(model: Any) -> Any:
    """The metadata of a model of OpenVINO's: a text, unless the file is not ours."""
    return model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else ''


def read_archive_metadata(path: Path) -> Metadata:
    """The metadata in an archive of torch's, without running what it holds.

    Raises:
        ModelFileError: As of :func:`parse_metadata`, or it is no such archive.
    """
    text = ''
    with name_file(path, 'torch'), zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if entry.filename.endswith(f'/extra/{KEY}.json'):
                with file.open(entry) as content:  # which may be packed terabytes
                    text = content.read(4 * MAX_METADATA).decode()
                break
    return parse_metadata(text, path)


SESSIONS: dict[str, Callable[[Path, str, int | None], Session]] = {
    '.onnx': ONNXSession,
    '.xml': OpenVINOSession,
    '.torchscript': TorchScriptSession,
    '.pt2': ProgramSession,
    '.param': NCNNSession,
}
# What lies beside the file that is loaded. The first two stand in folders of their own.
BESIDE = {'.xml': ('.bin',), '.param': ('.bin', '.json')}


def find_model(path: Path) -> Path:
    """The file to load: ``path``, or what a folder of OpenVINO's or NCNN's has.

    Raises:
        MissingModelError: There is no such file or folder, or a part of it is missing.
        ModelFileError: It is of no type that is known here.
    """
    try:
        exists = path.exists()
    except OSError as error:  # too long a name, or a folder that may not be searched
        raise MissingModelError(f'{path} cannot be read: {error.strerror}') from error
    if not exists:
        raise MissingModelError(f'{path} does not exist: mmnextvit export writes it')
    known = (
        f'{", ".join(SESSIONS)} and folders with one {" or ".join(BESIDE)} (OpenVINO, '
        'NCNN) are known'
    )
    models = [path]
    if path.is_dir():
        found = {suffix: list(path.glob(f'*{suffix}')) for suffix in BESIDE}
        models = [file for files in found.values() for file in files]
        counts = (f'{len(files)} {suffix} files' for suffix, files in found.items())
        if len(models) != 1:
            raise ModelFileError(
                f'{path} is a folder with {" and ".join(counts)}: {known}'
            )
    (path,) = models
    if path.suffix not in SESSIONS:
        raise ModelFileError(
            f'{path} has the suffix {path.suffix!r}: {known}. mmnextvit export makes '
            'them of a checkpoint'
        )
    for suffix in BESIDE.get(path.suffix, ()):
        if not path.with_suffix(suffix).is_file():
            raise MissingModelError(
                f'{path} lacks {path.stem}{suffix}, which lay beside it'
            )
    if not path.is_file():
        raise ModelFileError(f'{path} is no file')
    try:
        path.open('rb').close()
    except OSError as error:
        raise ModelFileError(f'{path} cannot be read: {error.strerror}') from error
    return path
