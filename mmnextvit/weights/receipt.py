"""Receipts: which tensors of a file fit a model, and what else differs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.nextvit import ARCHS
from ..utils.messages import first_few, show
from .class_rows import CarriedClasses
from .contents import is_finite
from .layouts import FORMATS, find_stage, find_stage_bounds

MAX_NAMES = 3  # that a message lists of each type
Shape = tuple[int, ...]


@dataclass
class Fit:
    """Which tensors of a file fit a model.

    Attributes:
        fitting: Names whose shapes agree.
        reshaped: Name to its shape in the file and in the model, where they differ.
        missing: Names that only the model has.
        unexpected: Names that only the file has.
        not_finite: Those of ``fitting`` that hold NaN or infinity in the file.
        reason: The likely cause as a sentence, or an empty text.
    """

    fitting: list[str]
    reshaped: dict[str, tuple[Shape, Shape]]
    missing: list[str]
    unexpected: list[str]
    not_finite: list[str]
    reason: str

    @property
    def complete(self) -> bool:
        """Whether both have the same tensors."""
        return not (self.reshaped or self.missing or self.unexpected)

    def fills(self, prefix: str) -> bool:
        """Whether every tensor of the model's part ``prefix`` is filled."""
        return not any(n.startswith(prefix) for n in (*self.reshaped, *self.missing))

    def __str__(self) -> str:
        total = len(self.fitting) + len(self.reshaped) + len(self.missing)
        lines = [f"{len(self.fitting)} of the model's {total} tensors fit"]
        reshaped = [
            f'{name} ({_format_shape(file)} in the file, {_format_shape(model)} in the '
            'model)'
            for name, (file, model) in self.reshaped.items()
        ]
        for title, names in (
            ('other shape', reshaped),
            ('not in the file', self.missing),
            ('not in the model', self.unexpected),
        ):
            if names:
                lines.append(f'  {title}: {first_few(names, MAX_NAMES)}')
        return '\n'.join([*lines, self.reason] if self.reason else lines)


def fit(model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor]) -> Fit:
    """Compares a model's state dict with a file's, by name and shape.

    A leading ``module.`` in the file is taken off as MMEngine does, and the batch
    counters of BatchNorm are left out: nothing depends on them.
    """
    ours, theirs = _select(model_state), _select(file_state)
    model, file = _read_shapes(ours), _read_shapes(theirs)
    both = [name for name in model if name in file]
    reshaped = {n: (file[n], model[n]) for n in both if file[n] != model[n]}
    fitting = [name for name in both if name not in reshaped]
    return Fit(
        fitting=fitting,
        not_finite=[n for n in fitting if not _is_finite(theirs[n], ours[n])],
        reshaped=reshaped,
        missing=[name for name in model if name not in file],
        unexpected=[name for name in file if name not in model],
        reason=_find_reason(model, file, reshaped),
    )


def _select(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are compared, by their names without ``module.``."""
    return {
        re.sub(r'^module\.', '', name): tensor
        for name, tensor in state.items()
        if not name.endswith('num_batches_tracked')
    }


def _read_shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _is_finite(theirs: Tensor, ours: Tensor) -> bool:
    """Whether a file's tensor has numbers, or infinity only where the model has, too.

    Masks and the ranges of an observer may be made with infinity.
    """
    if is_finite(theirs):
        return True
    has_nan = bool(theirs.float().isnan().any())
    return not has_nan and not is_finite(ours)


def _find_reason(
    model: Iterable[str], file: Iterable[str], reshaped: Iterable[str]
) -> str:
    """The likely cause why a file does not fit, as a sentence, or an empty text."""
    theirs, ours = _count_blocks(file), _count_blocks(model)
    if theirs and ours and theirs != ours:
        return (
            f'The file is of another arch: its backbone has {_describe_arch(theirs)}, '
            f"the model's {_describe_arch(ours)}."
        )
    if reshaped and all(n.startswith('bbox_head.') for n in reshaped):
        return 'Only the head differs in shape: another number of classes or anchors.'
    return ''


@dataclass
class Receipt:
    """What a file brought to a model.

    Attributes:
        source: The file or address.
        layout: What the file's names are, such as 'timm'.
        digest: The first 16 hexadecimal digits of the file's SHA-256.
        fit: Which tensors fit.
        notes: What else differs between file and model, a sentence each.
        classes: Which classes of the file were kept, where rows were carried over.
    """

    source: str
    layout: str
    digest: str
    fit: Fit
    notes: list[str]
    classes: CarriedClasses | None = None

    def __str__(self) -> str:
        lines = [f'{self.source}: {FORMATS[self.layout].title}, sha256 {self.digest}']
        groups = self.count_by_part()
        parts = ', '.join(f'{name} {n}/{of}' for name, (n, of) in groups.items())
        lines += [str(self.fit), f'  by part: {parts}']
        if self.classes:
            lines.append(f'  classes: {self.classes}')
        return '\n'.join([*lines, *(f'  note: {note}' for note in self.notes)])

    def count_by_part(self) -> dict[str, tuple[int, int]]:
        """How many tensors of how many fit, by stage and part of the model."""
        fitting = set(self.fit.fitting)
        names = [*self.fit.fitting, *self.fit.reshaped, *self.fit.missing]
        bounds = find_stage_bounds(_count_blocks(names))
        groups: dict[str, tuple[int, int]] = {}
        for name in names:
            parts = name.removeprefix('backbone.').removeprefix('model.')
            first, *rest = parts.split('.')
            if first == 'features' and bounds:
                first = f'stage {find_stage(int(rest[0]), bounds)}'
            n, of = groups.get(first, (0, 0))
            groups[first] = n + (name in fitting), of + 1
        order = ['stem', *sorted(g for g in groups if g.startswith('stage')), 'norm']
        return {g: groups[g] for g in (*order, *groups) if g in groups}


def describe_differences(
    metadata: Mapping, model: nn.Module, classes: Sequence[str] | None = None
) -> list[str]:
    """How a file's metadata and a model differ, a sentence each.

    Args:
        metadata: As in :class:`~.contents.Weights`; ``classes`` may be ``None``.
        model: A whole detector, or a backbone alone.
        classes: Names of the data's classes, to compare with the file's.
    """
    notes = []
    if left := metadata.get('left out'):
        notes.append(
            'left out, as the model has no place for them: '
            f'{first_few(left, MAX_NAMES)}'
        )
    if other := metadata.get('head'):
        notes.append(f"the file has {other}, whose weights YOLOv5's Detect has not")
    head = getattr(model, 'bbox_head', None)
    priors = getattr(head, 'prior_generator', None)
    if priors is not None and 'strides' in metadata:
        ours = [stride[0] for stride in priors.strides]
        if ours != metadata['strides']:
            notes.append(
                f'strides {show(metadata["strides"])} in the file, {ours} in the config'
            )
    if priors is not None and 'anchors' in metadata:
        ours = torch.tensor(priors.base_sizes, dtype=torch.float)
        theirs = torch.tensor(metadata['anchors'], dtype=torch.float)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3):
            notes.append(
                f'anchors {metadata["anchors"]} in the file, {ours.tolist()} in the '
                'config: write those of the file as base_sizes of '
                'model.bbox_head.prior_generator'
            )
    theirs = metadata.get('classes')
    if classes and theirs and list(classes) != theirs:
        notes.append(
            f'classes {show(theirs)} in the file, {show(list(classes))} in the config'
        )
    eps = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    if metadata.get('bn_eps') and eps and sorted(eps) != metadata['bn_eps']:
        notes.append(
            f'BatchNorm eps {metadata["bn_eps"]} in the file, {sorted(eps)} in the '
            'model: the outputs will differ'
        )
    return notes


def _count_blocks(names: Iterable[str]) -> int:
    """Blocks of a NextViT among state-dict names; 0 if there is none."""
    matches = (re.match(r'(?:backbone\.)?features\.(\d+)\.', name) for name in names)
    return max((int(m[1]) + 1 for m in matches if m), default=0)


def _describe_arch(blocks: int) -> str:
    archs = {sum(arch['depths']): name for name, arch in ARCHS.items()}
    name = f" (arch '{archs[blocks]}')" if blocks in archs else ''
    return f'{blocks} blocks{name}'


def _format_shape(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'
