"""Checkpoint files from one layout into another."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save
from torch import Tensor

from ..utils.errors import UserError
from ..utils.files import atomic_write, check_writable
from .contents import Weights, extract_weights, read_classes, widen_to_float32
from .layouts import YOLOV5, Numbering, make_formats

# Under which key a file of a layout has its state dict; without one it is the file.
STATE_KEYS = {'official': 'model', 'ours': 'state_dict', 'yolov5': 'state_dict'}
# How our names begin where rows begin at the image, by the layouts from and to. Read
# as a whole backbone, YOLOv5's module 0 then is a convolution or a Focus.
OF_ROWS: dict[tuple[str, str], tuple[str, ...]] = {
    ('ours', 'yolov5'): ('backbone.rows.',),
    ('yolov5', 'ours'): ('backbone.conv.weight', 'backbone.conv.conv.weight'),
}


@dataclass(frozen=True)
class Conversion:
    """What was read, and what was written.

    Attributes:
        weights: The source's weights under our names.
        state: The state dict that was written.
    """

    weights: Weights
    state: dict[str, Tensor]


def convert_file(
    source: str,
    target: str | os.PathLike,
    layout: str = 'ours',
    numbering: Numbering = YOLOV5,
    describe: Callable[[Weights, Sequence[str] | None], Mapping] | None = None,
) -> Conversion:
    """Writes a checkpoint's weights in another layout, in float32.

    Args:
        source: File or address of any layout.
        target: File to write, which must not exist; safetensors by its suffix.
        layout: Key of :data:`~.layouts.FORMATS` to write.
        numbering: Where a YOLOv5 file's modules stand.
        describe: Gives what the file holds besides, from the weights and the names of
            their classes; under ``state_dict`` further tensors. Not of safetensors.

    Raises:
        UserError: The source cannot be read, the layout has no place for its weights,
            or the target exists.
        OSError: The target cannot be written, which is tried at first.
    """
    target = Path(target)
    if target.exists():
        raise UserError(
            'this exists, and nothing is overwritten: choose another name', file=target
        )
    check_writable(target)
    content = CheckpointLoader.load_checkpoint(source, 'cpu', logger='silent')
    weights = extract_weights(content, source, numbering)
    _check_numbering(weights, layout, numbering, source)
    state = make_formats(numbering)[layout].from_ours(widen_to_float32(weights.state))
    if not state:
        raise UserError(
            f'the file has nothing that the layout {layout} can hold', file=source
        )
    classes = read_classes(content, weights.metadata, source)
    extras = dict(describe(weights, classes)) if describe else {}
    state.update(extras.pop('state_dict', {}))
    write_state(state, target, layout, classes, extras)
    return Conversion(weights, state)


def _check_numbering(
    weights: Weights, layout: str, numbering: Numbering, source: str
) -> None:
    """Checks that modules are numbered as the file's are.

    Raises:
        UserError: They are numbered behind a whole backbone, and the file's are rows
            from the image on.
    """
    of_rows = OF_ROWS.get((weights.layout, layout), ())
    if numbering.shift and any(name.startswith(of_rows) for name in weights.state):
        raise UserError(
            'its rows begin at the image, and nothing tells which are those of the '
            'neck: give the config of the detector, as in --config my_config.py (of a '
            "model of YOLOv5's own, import_yolov5 writes it)",
            file=source,
        )


def write_state(
    state: Mapping[str, Tensor],
    target: Path,
    layout: str,
    classes: Sequence[str] | None = None,
    extras: Mapping[str, object] = {},
) -> None:
    """Writes a state dict as programs of its layout expect it.

    Args:
        state: Names of the layout to tensors.
        target: File to write, which must not exist; safetensors by its suffix.
        layout: Key of :data:`~.layouts.FORMATS`.
        classes: Names of the detector's classes, which a file of ours holds unless it
            is of safetensors.
        extras: What it holds besides, likewise.

    Raises:
        OSError: It cannot be written, or exists.
    """
    with atomic_write(target, overwrite=False) as scratch:
        if target.suffix == '.safetensors':
            scratch.write_bytes(save({k: v.contiguous() for k, v in state.items()}))
        else:
            key = STATE_KEYS.get(layout)
            content = {key: dict(state)} if key else dict(state)
            if classes and layout == 'ours':
                content['meta'] = make_meta(classes)
            save_checkpoint({**content, **extras}, scratch)


def make_meta(classes: Sequence[str]) -> dict[str, object]:
    """The ``meta`` of a checkpoint whose detector has such classes."""
    return {'dataset_meta': {'classes': list(classes)}}


def save_checkpoint(content: Mapping, path: Path) -> None:
    """``torch.save``, which on a full disk raises what the system says.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        with open(path, 'wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch raises one about positions, while it handles that of the file.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
