"""A detector as a folder for NCNN, converted by its own pnnx.

NCNN has neither NMS nor batches: the folder holds the network of one image, and the
runtime suppresses overlapping boxes. NCNN's files have no room for metadata. They lie
beside, with the files' digests.
"""

import copy
import json
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from ..runtime import (
    Metadata,
    NCNNSession,
    compute_digest,
    name_file,
    parse_metadata,
    read_ncnn_file,
)
from ..utils.errors import UserError
from .job import Job, Run, Written
from .tracing import make_example, silence_converters


def write(job: Job, path: Path) -> Written:
    """Writes a folder of ``model.param``, ``model.bin`` and ``model.json``.

    Raises:
        UserError: pnnx does not convert the network, or NCNN lacks an operator of it.
    """
    path.mkdir()
    files = convert(trace(job), path, half=job.metadata['precision'] == 'half')
    check_layers(files[0])
    digests = {file.name: compute_digest(file) for file in files}
    content = {'metadata': job.metadata, 'sha256': digests}
    path.joinpath('model.json').write_text(json.dumps(content), encoding='utf-8')
    session = NCNNSession(files[0], 'cpu', None)
    run = run_candidates(session, job.candidates.best_class_only)
    return Written(run, read_metadata(path))


def trace(job: Job) -> bytes:
    """The network as TorchScript, which is what pnnx reads."""
    network = copy.copy(job.candidates)
    network.best_class_only = False  # NCNN has no argmax; the runtime has
    images = make_example(job.shape['size'], job.shape['batch'])
    content = BytesIO()  # torch ends the process where a disk is full
    with torch.no_grad(), silence_converters():
        torch.jit.save(torch.jit.trace(network, images, check_trace=False), content)
    return content.getvalue()


def convert(program: bytes, path: Path, half: bool = False) -> tuple[Path, Path]:
    """Has pnnx write ``model.param`` and ``model.bin``.

    Args:
        program: In TorchScript.
        path: Folder to write to.
        half: Whether weights are stored in float16.

    Raises:
        UserError: pnnx fails; the message has its last words.
    """
    import pnnx

    with tempfile.TemporaryDirectory(dir=path) as scratch:
        folder = Path(scratch)
        (folder / 'm.pt').write_bytes(program)
        done = subprocess.run(
            [pnnx.EXEC_PATH, 'm.pt', f'fp16={int(half)}'],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
        made = folder / 'm.ncnn.param', folder / 'm.ncnn.bin'
        if done.returncode or not all(file.is_file() for file in made):
            said = ' '.join(done.stdout.split())[-500:]
            raise UserError(
                f'pnnx does not convert the network for NCNN (exit code '
                f'{done.returncode}): choose another format. It says: {said}'
            )
        files = path / 'model.param', path / 'model.bin'
        for old, new in zip(made, files):
            old.rename(new)
    return files


def check_layers(param: Path) -> None:
    """Compares a network with what NCNN has.

    Raises:
        UserError: pnnx has left an operator that NCNN has no layer for, under torch's
            name.
    """
    lines = param.read_text(encoding='utf-8').splitlines()
    # The first two are the version and the counts.
    types = {line.split()[0] for line in lines[2:] if line.strip()}
    unknown = sorted(name for name in types if not name.isidentifier())
    if unknown:
        raise UserError(
            f'NCNN has no layer for {", ".join(unknown)}: choose another backbone or '
            'neck, or another format'
        )


def run_candidates(session: NCNNSession, best_class_only: bool) -> Run:
    """The run of the written file, with what the runtime does to the scores."""

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = session.run(images)
        boxes, scores = outputs['boxes'], outputs['scores']
        if best_class_only:
            best = scores.argmax(2)[..., None] == np.arange(scores.shape[2])
            scores = scores * best
        return boxes, scores

    return run


def read_metadata(path: Path) -> Metadata:
    """The metadata beside a folder's network.

    Raises:
        ModelFileError: As of :func:`~mmnextvit.runtime.parse_metadata`.
    """
    param = path / 'model.param'
    with name_file(param, 'ncnn'):
        text = json.dumps(read_ncnn_file(param).get('metadata'))
    return parse_metadata(text, param)
