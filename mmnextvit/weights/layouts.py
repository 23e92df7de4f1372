"""State dicts of other programs under our names, and back.

Each direction of each format is one pure function, which goes by names and never by
their order. Under our names a backbone's entries begin with ``backbone.``, as in the
state dict of a whole detector.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from torch import Tensor

from ..models.map_numbers import NUM_MAPS, ROW_SHIFT
from ..models.nextvit import ARCHS
from ..models.nextvit_arch import compute_stage_bounds
from ..utils.errors import UserError
from ..utils.messages import shorten, show

State = dict[str, Tensor]

# Parts of YOLOv5's Detect and Segment, and where MMYOLO's heads have them.
HEAD = {
    'm.': 'bbox_head.head_module.convs_pred.',
    **{
        f'proto.cv{i}.': f'bbox_head.head_module.proto_pred.conv{i}.' for i in (1, 2, 3)
    },
}
# Numbers have few digits: Python converts none of thousands, which a file may have.
TIMM_BLOCK = re.compile(r'^stages[._]([0-9]{1,9})\.blocks\.([0-9]{1,9})\.')
BLOCK = re.compile(r'features\.([0-9]{1,9})\.(.*)', re.DOTALL)
ROW = re.compile(r'(neck|backbone)\.rows\.([0-9]{1,9})\.')


@dataclass(frozen=True)
class Numbering:
    """Where a YOLOv5 file's numbered modules stand in a detector of ours.

    Args:
        neck: Number of the neck's first row.
        shift: By how much a row's number exceeds its module's: 0 where the backbone
            is rows too; otherwise module 0 is a whole backbone, as
            :mod:`~mmnextvit.models.map_numbers` has it.
        detect: Number of the head's row, or ``None``: then it follows the neck's last
            row that has parameters.
        backbone: What the names in a whole backbone begin with here.
        names: What names in a row begin with in YOLOv5 and here, where that differs,
            by the row's number.
    """

    neck: int = NUM_MAPS
    shift: int = ROW_SHIFT
    detect: int | None = None
    backbone: str = 'backbone.'
    names: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


YOLOV5 = Numbering()  # of the patched YOLOv5


def from_official(state: Mapping[str, Tensor]) -> State:
    """Names of the official classification release; its classifier is left out."""
    return {
        f'backbone.{name}': value
        for name, value in state.items()
        if not name.startswith('proj_head.')
    }


def extract_backbone(state: Mapping[str, Tensor]) -> State:
    """The backbone's entries without ``backbone.``, which are the official names."""
    return {
        name.removeprefix('backbone.'): value
        for name, value in state.items()
        if name.startswith('backbone.')
    }


def from_timm(state: Mapping[str, Tensor]) -> State:
    """timm's names, of the classifier (left out) or of ``features_only``."""
    blocks = [TIMM_BLOCK.match(name) for name in state]
    depths: dict[int, int] = {}
    for match in filter(None, blocks):
        stage, block = int(match[1]), int(match[2])
        depths[stage] = max(depths.get(stage, 0), block + 1)
    stages = sorted(depths)
    starts = dict(zip(stages, accumulate((depths[s] for s in stages), initial=0)))

    def rename(name: str) -> str:
        name = TIMM_BLOCK.sub(
            lambda m: f'features.{starts[int(m[1])] + int(m[2])}.', name
        )
        name = re.sub(r'^stem_', 'stem.', name)
        name = re.sub(r'\bmlp\.fc([12])\.', r'mlp.conv\1.', name)
        return f'backbone.{name}'

    return {rename(k): v for k, v in state.items() if not k.startswith('head.')}


def to_timm(state: Mapping[str, Tensor]) -> State:
    """The backbone under the names of timm's classifier.

    Raises:
        UserError: The number of blocks is that of no published arch, so that nothing
            tells where a stage begins.
    """
    backbone = extract_backbone(state)
    blocks = {name: BLOCK.match(name) for name in backbone}
    numbers = {int(match[1]) for match in blocks.values() if match}
    bounds = find_stage_bounds(len(numbers))
    if not bounds:
        raise UserError(
            f'a backbone of {len(numbers)} blocks is none of {sorted(ARCHS)}: its '
            'stages are unknown'
        )

    def rename(name: str) -> str:
        if match := blocks[name]:
            number = int(match[1])
            stage = find_stage(number, bounds)
            name = f'stages.{stage}.blocks.{number - bounds[stage]}.{match[2]}'
        return re.sub(r'\bmlp\.conv([12])\.', r'mlp.fc\1.', name)

    return {rename(k): v for k, v in backbone.items()}


def find_stage_bounds(blocks: int) -> tuple[int, ...]:
    """Index of each stage's first block in a backbone of so many, and their number.

    Empty where that is the number of no published arch, whole or cut behind a stage.
    """
    for arch in ARCHS.values():
        bounds = compute_stage_bounds(arch['depths'])
        if blocks in bounds[1:]:
            return bounds[: bounds.index(blocks) + 1]
    return ()


def find_stage(block: int, bounds: Sequence[int]) -> int:
    """Index of the stage that a block is in."""
    return bisect_right(bounds, block) - 1


def from_yolov5(state: Mapping[str, Tensor], numbering: Numbering = YOLOV5) -> State:
    """YOLOv5's names, of the patched one or of YOLOv5 itself: backbone, neck and head.

    Args:
        state: Entries ``model.{module}.…``; the last module is the head. Anchors and
            strides are left out: a config has them.
        numbering: Where the modules stand.

    Raises:
        UserError: A name is another.
    """
    parts: dict[str, re.Match[str]] = {}
    for name in state:
        match = re.fullmatch(r'model\.([0-9]{1,9})\.(.+)', name)
        if not match:
            raise UserError(f'{shorten(name)} is in no numbered module')
        parts[name] = match
    last = max((int(match[1]) for match in parts.values()), default=0)
    converted = {}
    for name, value in state.items():
        module, rest = int(parts[name][1]), parts[name][2]
        row = module + numbering.shift
        if module == last:
            for theirs, ours in HEAD.items():
                if rest.startswith(theirs):
                    converted[ours + rest[len(theirs) :]] = value
        elif row >= numbering.neck:
            rest = replace_start(rest, numbering.names.get(row, {}))
            converted[f'neck.rows.{row}.{rest}'] = value
        elif numbering.shift:
            converted[f'{numbering.backbone}{rest}'] = value
        else:
            rest = replace_start(rest, numbering.names.get(row, {}))
            converted[f'backbone.rows.{row}.{rest}'] = value
    return converted


def replace_start(name: str, starts: Mapping[str, str]) -> str:
    """A name with the first of some texts that it begins with replaced by another."""
    for old, new in starts.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def to_yolov5(state: Mapping[str, Tensor], numbering: Numbering = YOLOV5) -> State:
    """Our detector under the names of YOLOv5's ``state_dict``, without anchors."""
    matches = [ROW.match(name) for name in state]
    rows = [int(match[2]) for match in matches if match and match[1] == 'neck']
    detect = numbering.detect or max(rows, default=numbering.neck) + 1
    converted = {}
    for name, value in state.items():
        if match := ROW.match(name):
            names = numbering.names.get(int(match[2]), {})
            back = {ours: theirs for theirs, ours in names.items()}
            module = int(match[2]) - numbering.shift
            name = f'model.{module}.{replace_start(name[match.end() :], back)}'
        elif name.startswith(numbering.backbone):
            name = f'model.0.{name.removeprefix(numbering.backbone)}'
        else:
            for theirs, ours in HEAD.items():
                if name.startswith(ours):
                    module = detect - numbering.shift
                    name = f'model.{module}.{theirs}{name[len(ours) :]}'
        converted[name] = value
    return converted


@dataclass(frozen=True)
class Format:
    """One layout of names.

    Args:
        title: What a receipt calls it.
        matches: Whether names are of this layout.
        to_ours: State dict of this layout to ours.
        from_ours: And back.
    """

    title: str
    matches: Callable[[set[str]], bool]
    to_ours: Callable[[Mapping[str, Tensor]], State]
    from_ours: Callable[[Mapping[str, Tensor]], State]


def _match_prefixes(*prefixes: str) -> Callable[[set[str]], bool]:
    return lambda names: all(any(n.startswith(p) for n in names) for p in prefixes)


def make_formats(numbering: Numbering = YOLOV5) -> dict[str, Format]:
    """The layouts, in the order in which they are tried.

    Args:
        numbering: Where a YOLOv5 file's modules stand.
    """
    return {
        'yolov5': Format(
            'YOLOv5',
            _match_prefixes('model.0.'),
            partial(from_yolov5, numbering=numbering),
            partial(to_yolov5, numbering=numbering),
        ),
        'ours': Format('mmnextvit', _match_prefixes('backbone.'), dict, dict),
        'official': Format(
            'official',
            _match_prefixes('stem.0.', 'features.'),
            from_official,
            extract_backbone,
        ),
        'timm': Format('timm', _match_prefixes('stem', 'stages'), from_timm, to_timm),
    }


FORMATS = make_formats()


def recognise_format(names: set[str]) -> str:
    """Which of :data:`FORMATS` names are of.

    Raises:
        UserError: None of them.
    """
    for key, layout in FORMATS.items():
        if layout.matches(names):
            return key
    raise UserError(
        f'the names are of no known layout ({", ".join(FORMATS)}); they begin '
        f'{show(sorted(names)[:3])}'
    )
