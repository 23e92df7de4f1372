"""A detector as a program of ``torch.export``, a .pt2 file.

It holds the network alone, since NMS keeps as many boxes as it finds, which such
programs can hardly say: the runtime does it. Nothing in the file is a pickle.
"""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from ..runtime import KEY
from ..runtime import read_archive_metadata as read_metadata
from .job import Job, Written
from .tracing import export_program, silence_converters


def write(job: Job, path: Path) -> Written:
    """Writes a program, for the CPU."""
    program = export_program(job.candidates, **job.shape)
    program.example_inputs = None  # they would be a pickle
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # with the names of folders here
    content = BytesIO()  # torch ends the process where a disk is full
    with silence_converters():
        torch.export.save(
            program, content, extra_files={f'{KEY}.json': json.dumps(job.metadata)}
        )
    path.write_bytes(content.getbuffer())
    network = program.module()

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(images))
        return tuple(values.numpy() for values in outputs)

    return Written(run, read_metadata(path))
