"""Writes what the patched YOLOv5's training writes: a pickle of a whole model.

YOLOv5's classes exist only while a file is written, so that reading it must do
without them.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
HOMES = {
    'models.yolo': ('DetectionModel', 'Detect'),
    'models.common': ('Conv', 'Bottleneck', 'C3', 'SPPF', 'Concat'),
    'models.nextvit': ('NextViT', 'Part', 'DropPath'),
}


@contextmanager
def yolov5_on_the_path():
    """YOLOv5's modules, with empty classes of its names."""
    names = {'models', *HOMES}
    saved = {name: sys.modules.get(name) for name in names}
    modules = {name: ModuleType(name) for name in names}
    classes = {}
    for home, members in HOMES.items():
        for member in members:
            cls = type(member, (nn.Module,), {'__module__': home})
            setattr(modules[home], member, cls)
            classes[member] = cls
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name, module in saved.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def write_yolov5_checkpoint(
    path: str | Path,
    state: Mapping[str, Tensor],
    types: Sequence[str],
    *,
    half: bool = True,
    ema: bool | Mapping[str, Tensor] = False,
    names: Sequence[str] | Mapping[int, str] = ('a', 'b', 'c'),
    strides: Sequence[int] = (8, 16, 32),
    anchors: Sequence = ANCHORS,
    eps: float = 1e-3,
    zipped: bool = True,
    protocol: int = 2,
    yaml: Mapping | None = None,
    opt: Mapping | None = None,
) -> Path:
    """Writes ``{'model': ..., 'ema': ..., 'optimizer': ..., ...}``.

    Args:
        path: File to write.
        state: Entries ``model.{module}.…`` with YOLOv5's names, without the anchors.
        types: Class of each module by its number: ``'NextViT'``, ``'SPPF'``,
            ``'nn.Upsample'``, ..., ``'Detect'``.
        half: Store float16, as YOLOv5 does.
        ema: Put a model there too: of the same weights, or of these.
        names: The classes' names, as old (list) or new YOLOv5 has them.
        strides: Pixels a cell of each of the head's levels.
        anchors: Pairs of width and height in pixels for each level.
        eps: That of every BatchNorm2d.
        zipped: torch's form of today, or that before torch 1.6.
        protocol: Pickle protocol.
        yaml: What the model holds as its YAML.
        opt: Options of the training.

    Returns:
        The path.
    """
    with yolov5_on_the_path() as classes:

        def build(weights: Mapping[str, Tensor]) -> nn.Module:
            model = _tree(weights, types, classes, eps)
            detect = model.model[-1]
            stride = torch.tensor(strides, dtype=torch.float)
            cells = torch.tensor(anchors, dtype=torch.float) / stride.view(-1, 1, 1)
            detect.register_buffer('anchors', cells)
            detect.stride = model.stride = stride
            detect.nc = model.nc = len(names)
            detect.grid = [torch.empty(0)] * len(strides)
            model.names = dict(names) if isinstance(names, Mapping) else list(names)
            model.yaml = dict(yaml or {'head': [[-1, 1, 'Conv', [512, 1, 1]]]})
            model.yaml['nc'] = len(names)
            model.save, model.inplace, model.hyp = [4, 6], True, {'lr0': 0.01}
            return model.half() if half else model

        model = build(state)
        weights = list(model.parameters())[:2]
        optimizer = torch.optim.SGD([{'params': weights}], lr=0.01, momentum=0.9)
        content = {
            'epoch': 3,
            'best_fitness': np.array([0.5]),
            'model': model,
            'ema': None if ema is False else build(state if ema is True else ema),
            'updates': 12,
            'optimizer': optimizer.state_dict(),
            'opt': argparse.Namespace(
                cfg='nextvit.yaml', project=Path('runs/train'), **(opt or {})
            ),
            'wandb_id': None,
            'date': '2023-05-01T12:00:00.000000',
        }
        with warnings.catch_warnings():
            # The old form would hold the classes' source, and these have none.
            warnings.simplefilter('ignore', UserWarning)
            torch.save(
                content,
                path,
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=zipped,
            )
    return Path(path)


def _tree(
    state: Mapping[str, Tensor], types: Sequence[str], classes: dict, eps: float
) -> nn.Module:
    """A whole model whose ``state_dict`` is ``state``."""
    activation = nn.SiLU()  # one for all convolutions, as YOLOv5's default_act

    def build(entries: Mapping[str, Tensor], path: str, type_: str | None) -> nn.Module:
        own, children = _split(entries)
        if own:
            module = _layer(own, path, eps)
        elif type_ is None and children and all(name.isdigit() for name in children):
            module = nn.Sequential()
        elif type_ == 'nn.Upsample':
            module = nn.Upsample(None, 2, 'nearest')
        elif type_ in CONTAINERS:
            module = CONTAINERS[type_]()
        else:
            module = classes[type_ or 'Part']()
        for name, child in children.items():
            module.add_module(
                name, build(child, f'{path}.{name}', _type_of_child(type_, name))
            )
        if type_ == 'Conv':
            module.act = activation
        elif type_ == 'SPPF':
            module.m = nn.MaxPool2d(5, 1, 2)
        elif type_ == 'NextViT':
            module.stage_out_idx, module.drop = [2, 6, 16, 19], classes['DropPath']()
        return module

    entries = _split({n.removeprefix('model.'): t for n, t in state.items()})[1]
    model = classes['DetectionModel']()
    model.model = nn.Sequential()
    for i, type_ in enumerate(types):
        module = build(entries.get(str(i), {}), f'model.{i}', type_)
        module.i, module.f, module.type = i, -1, f'models.common.{type_}'
        model.model.append(module)
    return model


CONTAINERS = {'Bottlenecks': nn.Sequential, 'Predictions': nn.ModuleList}


def _type_of_child(parent: str | None, name: str) -> str | None:
    """Class of a child, where its parent's class tells."""
    if name.startswith('cv') and name[2:].isdigit():
        return 'Conv'
    if parent == 'Bottlenecks':
        return 'Bottleneck'
    return {('C3', 'm'): 'Bottlenecks', ('Detect', 'm'): 'Predictions'}.get(
        (parent, name)
    )


def _split(entries: Mapping[str, Tensor]) -> tuple[dict, dict[str, dict]]:
    """A module's own tensors, and those of its children."""
    own, children = {}, {}
    for name, tensor in entries.items():
        first, dot, rest = name.partition('.')
        if dot:
            children.setdefault(first, {})[rest] = tensor
        else:
            own[name] = tensor
    return own, children


def _layer(own: Mapping[str, Tensor], path: str, eps: float) -> nn.Module:
    """The layer of torch's that holds such tensors."""
    shape = own['weight'].shape
    if 'running_mean' in own:
        one_d = path.endswith('e_mhsa.norm')
        layer = nn.BatchNorm1d if one_d else nn.BatchNorm2d
        module = layer(shape[0], eps=1e-5 if one_d else eps)
    elif len(shape) == 4:
        module = nn.Conv2d(
            shape[1], shape[0], shape[2:], bias='bias' in own, device='meta'
        )
    else:
        module = nn.Linear(shape[1], shape[0], bias='bias' in own, device='meta')
    for name in list(module._buffers):
        module._buffers[name] = None
    for name, tensor in own.items():
        if name in module._buffers:
            module._buffers[name] = tensor
        else:
            setattr(module, name, nn.Parameter(tensor.detach()))
    return module
