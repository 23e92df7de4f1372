"""Rows of a head's outputs for classes, carried over from a file with other classes."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..utils.messages import first_few

State = dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """What the outputs of a layer are of, in each of its groups, such as anchors.

    Attributes:
        before: Rows before those of the classes: a box and its objectness.
        width: Rows of each class, one class after another.
        after: Rows behind those of the classes: a background, or a mask.
    """

    before: int = 0
    width: int = 1
    after: int = 0

    def count(self, classes: int) -> int:
        """Rows of a group with so many classes."""
        return self.before + self.width * classes + self.after

    def find_groups(self, rows: int, classes: int) -> int:
        """How many groups have so many rows in all; 0 if they cannot have."""
        groups, rest = divmod(rows, self.count(classes))
        return 0 if rest else groups

    def find_classes(self, rows: int, groups: int) -> int:
        """How many classes so many groups have rows for; 0 if they cannot have."""
        each, rest = divmod(rows, groups)
        classes, rest_of_class = divmod(each - self.before - self.after, self.width)
        return 0 if rest or rest_of_class else max(classes, 0)

    def split(
        self, tensor: Tensor, groups: int, classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Views of a layer's weight or bias (rows, ...).

        Returns:
            The rows before the classes (groups, before, ...), the classes' (groups,
            classes, width, ...) and those behind (groups, after, ...).
        """
        sizes = [self.before, self.width * classes, self.after]
        before, middle, after = tensor.unflatten(0, (groups, -1)).split(sizes, 1)
        return before, middle.unflatten(1, (classes, self.width)), after


def _get_box_rows(head: Any) -> Rows | None:
    """Of the boxes in MMDetection's two-stage heads: a box for each class, or one."""
    if head.reg_class_agnostic:
        return None
    return Rows(width=head.bbox_coder.encode_size)


# The layers with rows of classes, by their names in a detector, and how the rows lie by
# what the head says that is named first.
LAYERS: dict[str, Callable[[Any], Rows | None]] = {
    # YOLOv5: x, y, w, h, objectness, the classes and, of masks, the coefficients
    r'(bbox_head\.head_module)\.convs_pred\.\d+': lambda head: Rows(
        before=5, after=getattr(head, 'mask_channels', 0)
    ),
    r'(bbox_head\.head_module)\.cls_preds\.\d+\.2': lambda head: Rows(),  # YOLOv8
    r'(bbox_head\.head_module)\.rtm_cls\.\d+': lambda head: Rows(),  # RTMDet
    # MMDetection's one-stage heads and DETRs, with a background behind a softmax
    r'(bbox_head)\.(?:\w+_cls|cls_branches)(?:\.\d+)?': lambda head: Rows(
        after=head.cls_out_channels - head.num_classes
    ),
    r'(roi_head\.bbox_head(?:\.\d+)?)\.fc_cls': lambda head: (
        None if head.custom_cls_channels else Rows(after=1)
    ),
    r'(roi_head\.bbox_head(?:\.\d+)?)\.fc_reg': _get_box_rows,
    r'(roi_head\.mask_head(?:\.\d+)?)\.conv_logits': lambda head: (
        None if head.class_agnostic else Rows()
    ),
}


@dataclass(frozen=True)
class ClassLayer:
    """A weight or bias with rows of classes, in a model and in a file.

    Attributes:
        name: Its name in the state dict.
        rows: How they lie.
        groups: Anchors, or other repetitions.
        num_ours: Classes of the model.
        num_theirs: Classes of the file; 0 where it has other groups or inputs.
    """

    name: str
    rows: Rows
    groups: int
    num_ours: int
    num_theirs: int

    def carry(self, own: Tensor, theirs: Tensor, kept: Mapping[int, int]) -> Tensor:
        """The model's tensor with what is kept of the file's.

        Args:
            own: The model's tensor, as it was initialised.
            theirs: The file's.
            kept: Indices of the model's classes to those of the file.
        """
        carried = own.detach().clone()
        ours = self.rows.split(carried, self.groups, self.num_ours)
        file = self.rows.split(theirs.detach(), self.groups, self.num_theirs)
        for i in (0, 2):
            ours[i].copy_(file[i])
        taken = file[1][:, [*kept.values()]].to(carried.dtype)
        ours[1][:, [*kept]] = taken.to(carried.device)
        return carried


@dataclass(frozen=True)
class CarriedClasses:
    """Which classes of a file a model has kept.

    Attributes:
        ours: Names of the model's classes, or ``None`` if unknown.
        theirs: Names of the file's classes, or ``None`` if unknown.
        num_ours: Number of the model's classes.
        num_theirs: Number of those that the file has rows for.
        num_names: Number of the names that the file has, if any.
        kept: Indices of the model's classes to those of the file.
    """

    ours: tuple[str, ...] | None
    theirs: tuple[str, ...] | None
    num_ours: int
    num_theirs: int
    num_names: int
    kept: Mapping[int, int]

    def __str__(self) -> str:
        if self.ours is not None and self.theirs is not None:
            return self._describe_names(self.ours, self.theirs)
        if self.theirs is None and self.num_names:
            reason = (
                f'the file has {self.num_names} names for the {self.num_theirs} '
                'classes of its head'
            )
        elif self.theirs is None:
            reason = f'the file does not name its {self.num_theirs} classes'
        else:
            reason = f"the model's {self.num_ours} classes have no names yet"
        if self.kept:
            return f"{reason}: all {self.num_ours} rows are kept in the file's order"
        return (
            f'{reason}: those of all {self.num_ours} classes start anew, the other '
            'rows of the head are kept'
        )

    def _describe_names(self, ours: Sequence[str], theirs: Sequence[str]) -> str:
        known = {_fold(name) for name in theirs}
        kept, new = [], []
        for i, name in enumerate(ours):
            if i not in self.kept:
                new.append(f'{name} (ambiguous)' if _fold(name) in known else name)
            elif (their_name := theirs[self.kept[i]]) == name:
                kept.append(name)
            else:
                kept.append(f'{name} ({their_name} in the file)')
        parts = [f'kept {first_few(kept)}' if kept else 'kept none']
        if new:
            parts.append(f'new: {first_few(new)}')
        if left := len(theirs) - len(self.kept):
            parts.append(f"left out: {left} of the file's")
        return '; '.join(parts)


def carry_classes(
    model: nn.Module,
    state: Mapping[str, Tensor],
    ours: Sequence[str] | None,
    theirs: Sequence[str] | None,
) -> tuple[State, CarriedClasses | None]:
    """A file's state dict with the rows of its head's classes as a model has them.

    Classes are the same if they have the same name (:func:`match_classes`). The others
    have the rows with which the model was initialised. Rows of boxes, objectness and
    so on, which all classes share, are the file's. Where a file or the data name no
    classes, all rows are kept in their order if there are as many, else none.

    Args:
        model: A detector.
        state: The file's, under the model's names.
        ours: Names of the data's classes; ``None`` takes the file's for as many.
        theirs: Names of the file's classes, if known.

    Returns:
        The state dict and what became of the classes. That is ``None``, and nothing is
        changed, where the head is none of :data:`LAYERS`, has other anchors or inputs
        than the file's, or has not as many classes as the data.
    """
    own = model.state_dict()
    layers = find_class_layers(model, own, state)
    numbers = {(layer.num_ours, layer.num_theirs) for layer in layers}
    if len(numbers) != 1:
        return dict(state), None
    num_ours, num_theirs = numbers.pop()
    if not num_theirs or (ours is not None and len(ours) != num_ours):
        return dict(state), None
    num_names = len(theirs or ())
    if num_names != num_theirs:
        theirs = None
    if ours is None and num_ours == num_theirs:
        ours = theirs
    if ours is not None and theirs is not None:
        kept = match_classes(ours, theirs)
    else:
        kept = {i: i for i in range(num_ours)} if num_ours == num_theirs else {}
    carried = {
        layer.name: layer.carry(own[layer.name], state[layer.name], kept)
        for layer in layers
    }
    return {**state, **carried}, CarriedClasses(
        None if ours is None else tuple(ours),
        None if theirs is None else tuple(theirs),
        num_ours,
        num_theirs,
        num_names,
        kept,
    )


def find_class_layers(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> list[ClassLayer]:
    """The tensors with rows of classes that a detector and a file both have."""
    layers = []
    for path, module in model.named_modules(remove_duplicate=False):
        matches = ((re.fullmatch(key, path), get) for key, get in LAYERS.items())
        match, get_rows = next((m for m in matches if m[0]), (None, None))
        if match is None or get_rows is None or not hasattr(module, 'weight'):
            continue
        head: Any = model.get_submodule(match[1])
        try:
            rows, num_ours = get_rows(head), head.num_classes
        except AttributeError:  # someone's own head, with a layer of such a name
            continue
        for name in (f'{path}.weight', f'{path}.bias'):
            if rows and name in own and name in state:
                ours, theirs = own[name].shape, state[name].shape
                groups = rows.find_groups(ours[0], num_ours)
                fits = groups and len(theirs) > 0 and ours[1:] == theirs[1:]
                count = rows.find_classes(theirs[0], groups) if fits else 0
                layers.append(ClassLayer(name, rows, groups, num_ours, count))
    return layers


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Which classes of two lists are the same, by their names.

    Equal names come first; then names that differ only in capitals and in spaces around
    them. A name that a list has more than once tells no class, unless both lists are
    the same.

    Returns:
        Indices of ``ours`` to indices of ``theirs``, in the order of ``ours``.
    """
    if list(ours) == list(theirs):
        return {i: i for i in range(len(ours))}
    same: dict[int, int] = {}
    for normalise in (str, _fold):
        left = _index_unique([*map(normalise, ours)], same.keys())
        right = _index_unique([*map(normalise, theirs)], same.values())
        same |= {left[name]: right[name] for name in left if name in right}
    return dict(sorted(same.items()))


def _index_unique(names: Sequence[str], taken: Any) -> dict[str, int]:
    """Index of each name that occurs once among those that are not taken."""
    taken = set(taken)
    free = {i: name for i, name in enumerate(names) if i not in taken}
    counts = Counter(free.values())
    return {name: i for i, name in free.items() if counts[name] == 1}


def _fold(name: str) -> str:
    return name.strip().casefold()
