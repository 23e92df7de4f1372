"""A detector as a CoreML package, which only Apple's systems run.

Before it is converted, torch runs the program that it is converted from, to compare
that; of the package itself the specification is checked.
"""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import KEY, Metadata, name_file, parse_metadata
from ..utils.errors import UserError
from .candidates import Candidates
from .job import Job, Run, Written
from .tracing import export_program, silence_converters

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Operation
    from coremltools.models import MLModel
    from coremltools.proto.Model_pb2 import Model

OUTPUTS = ('coordinates', 'confidence')

# It warns that there is no Apple system here, and of every 64-bit number.
logging.getLogger('coremltools').setLevel(logging.ERROR)


class ForCoreML(nn.Module):
    """Candidates of one image as CoreML's NMS takes them.

    Coordinates (N, 4) are the box's centre, width and height as parts of the image,
    confidence is (N, C).
    """

    def __init__(self, candidates: Candidates, size: Sequence[int]) -> None:
        super().__init__()
        self.candidates = candidates
        height, width = size
        self.register_buffer('sides', torch.tensor([float(width), float(height)]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.candidates(images)
        start, end = boxes[0, :, :2] / self.sides, boxes[0, :, 2:] / self.sides
        return torch.cat(((start + end) / 2, end - start), -1), scores[0]


def write(job: Job, path: Path) -> Written:
    """Writes an ML program, with CoreML's NMS behind it in a pipeline.

    It runs from iOS 16 and macOS 13 on.
    """
    program = export_program(ForCoreML(job.candidates, job.shape['size']), **job.shape)
    model = convert(program, job)
    if job.metadata['nms']['in_graph']:
        model = add_nms(model, job.metadata)
    model.short_description = f'{job.metadata["config"]}, exported by mmnextvit'
    model.user_defined_metadata[KEY] = json.dumps(job.metadata)
    with silence_converters():
        model.save(str(path))
    check_specification(path, job.metadata)
    return Written(run_by_torch(program, job.shape['size']), read_metadata(path))


def convert(program: torch.export.ExportedProgram, job: Job) -> 'MLModel':
    """An ML program of what torch exported, in the job's precision."""
    import coremltools as ct

    size = job.shape['size']
    precision = ct.precision.FLOAT32
    if job.metadata['precision'] == 'half':
        (output,) = program.graph.find_nodes(op='output')
        count = output.args[0][0].meta['val'].shape[0]
        select = partial(is_network, size=size, count=count)
        precision = ct.transform.FP16ComputePrecision(select)
    with torch.no_grad(), silence_converters():
        return ct.convert(
            program.run_decompositions({}),
            inputs=[ct.ImageType('images', (1, 3, *size), color_layout='RGB')],
            outputs=[ct.TensorType(name) for name in OUTPUTS],
            convert_to='mlprogram',
            compute_precision=precision,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )


def run_by_torch(program: torch.export.ExportedProgram, size: Sequence[int]) -> Run:
    """The run of what is converted, with boxes in pixels as every format's run."""
    network, (height, width) = program.module(), size
    sides = torch.tensor([float(width), float(height)])

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            coordinates, confidence = network(torch.from_numpy(images))
        centre, extent = (coordinates * sides.repeat(2)).split(2, dim=1)
        boxes = torch.cat((centre - extent / 2, centre + extent / 2), 1)
        return boxes[None].numpy(), confidence[None].numpy()

    return run


def is_network(op: 'Operation', size: list[int], count: int) -> bool:
    """Whether an operation of CoreML's belongs to neither normalisation nor decoding.

    Those give images (1, 3, H, W), and arrays of as many rows as candidates.
    """
    shape = list(op.outputs[0].shape)
    return shape[1:] != [3, *size] and count not in shape


def add_nms(model: 'MLModel', metadata: Metadata) -> 'MLModel':
    """An ML program followed by CoreML's non-maximum suppression."""
    import coremltools as ct

    network, nms = model.get_spec(), metadata['nms']
    tail = ct.proto.Model_pb2.Model()
    tail.specificationVersion = network.specificationVersion
    for name, width in (('coordinates', 4), ('confidence', len(metadata['classes']))):
        feature = next(o for o in network.description.output if o.name == name)
        tail.description.input.add().CopyFrom(feature)
        out = tail.description.output.add()
        out.name = name
        array = out.type.multiArrayType
        array.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        boxes, columns = (array.shapeRange.sizeRanges.add() for _ in range(2))
        boxes.lowerBound, boxes.upperBound = 0, -1  # any number
        columns.lowerBound = columns.upperBound = width
        for stage in ('Input', 'Output'):
            key = f'{name}{stage}FeatureName'
            setattr(tail.nonMaximumSuppression, key, name)
    layer = tail.nonMaximumSuppression
    layer.iouThreshold = nms['iou_threshold']
    layer.confidenceThreshold = nms['score_thr']
    layer.pickTop.perClass = True
    layer.stringClassLabels.vector.extend(metadata['classes'])

    spec = ct.proto.Model_pb2.Model()
    spec.specificationVersion = network.specificationVersion
    spec.pipeline.models.add().CopyFrom(network)
    spec.pipeline.models.add().CopyFrom(tail)
    spec.description.input.extend(network.description.input)
    spec.description.output.extend(tail.description.output)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def read_metadata(path: Path) -> Metadata:
    """The metadata in a CoreML package.

    Raises:
        ModelFileError: As of :func:`~mmnextvit.runtime.parse_metadata`.
    """
    texts = read_specification(path).description.metadata.userDefined
    return parse_metadata(texts.get(KEY), path)


def read_specification(path: Path) -> 'Model':
    """The specification of a CoreML package, which is not loaded.

    Raises:
        ModelFileError: The package is damaged.
    """
    import coremltools as ct

    with name_file(path, 'coremltools'):
        return ct.models.MLModel(str(path), skip_model_load=True).get_spec()


def check_specification(path: Path, metadata: Metadata) -> None:
    """Reads a CoreML package again and checks its specification.

    Raises:
        UserError: It is not what was to be written.
    """
    spec = read_specification(path)
    stages = [spec]
    if spec.WhichOneof('Type') == 'pipeline':
        stages = spec.pipeline.models
    image = spec.description.input[0].type.imageType
    wanted_stages: list[str] = ['mlProgram']
    labels: list[str] = []
    if metadata['nms']['in_graph']:
        wanted_stages.append('nonMaximumSuppression')
        labels = metadata['classes']
    has = (
        [stage.WhichOneof('Type') for stage in stages],
        [image.height, image.width],
        {output.name for output in spec.description.output},
        [*stages[-1].nonMaximumSuppression.stringClassLabels.vector],
        spec.description.metadata.userDefined[KEY],
    )
    wanted = (
        wanted_stages,
        metadata['input']['size'],
        {*OUTPUTS},
        labels,
        json.dumps(metadata),
    )
    if has != wanted:
        raise UserError(f'the specification is {has}, not {wanted}', file=path)
