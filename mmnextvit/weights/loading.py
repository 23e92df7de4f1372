"""Brings weights of any known layout into a model, completely or with an error.

Importing this module puts :func:`read_checkpoint` under MMEngine's checkpoint
schemes: paths, http(s), ``timm://MODEL.TAG`` and ``hf://OWNER/NAME[:FILE]``. A scheme
only reads; names are converted by :func:`adapt` where the model is known.
"""

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..models.nextvit import ARCHS, NextViT
from ..models.timm_features import TimmFeatures
from .layouts import (
    FORMATS,
    YOLOV5,
    Numbering,
    backbone_of,
    formats,
    recognised,
    stage_starts,
)
from .reader import forced_weights_only, read_checkpoint, refused
from .unpickler import Record, named_modules

OURS = NextViT, TimmFeatures  # backbones whose weights come with a receipt
SHOWN = 3  # names that a message lists of each kind


# ------------------------------------------------------------------------ schemes


class Checkpoint(dict):
    """What a file holds, and which file it was.

    Attributes:
        source: The path or address that was asked for.
        digest: The first 16 hexadecimal digits of the file's SHA-256.
    """

    source: str
    digest: str


def read_file(path: str, map_location=None, source: str | None = None) -> Checkpoint:
    content = Checkpoint(read_checkpoint(path, map_location))
    content.source = source or path
    with open(os.path.expanduser(path), 'rb') as file:
        content.digest = hashlib.file_digest(file, 'sha256').hexdigest()[:16]
    return content


def download_folder() -> Path:
    """Where downloads are kept, and looked for first."""
    return Path(torch.hub.get_dir(), 'checkpoints')


def fetched(source: str, name: str, fetch: Callable[[Path], str]) -> str:
    """The file of a download, from the folder of downloads if it is there.

    Raises:
        FileNotFoundError: It cannot be had; the message says what was wanted, and
            where a file that was fetched elsewhere may be put.
    """
    path = download_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    first = get_rank() == 0
    if not first:
        barrier()  # the first process fetches, the others find the file
    try:
        return str(path) if path.is_file() else fetch(path)
    except Exception as error:  # whatever the network or a hub's client raises
        reason = str(error).strip().partition('\n')[0][:150]
        raise FileNotFoundError(
            f'{source} could not be fetched ({type(error).__name__}: {reason}). Fetch '
            f'it on another machine and put it at {path}, or give its path instead '
            '(init_cfg=None or load_from=None goes on without weights).'
        ) from error
    finally:
        if first:
            barrier()


def read_http(filename: str, map_location=None, **_) -> Checkpoint:
    name = filename.split('?')[0].rstrip('/').rpartition('/')[2]

    def fetch(path: Path) -> str:
        torch.hub.download_url_to_file(filename, str(path), progress=True)
        return str(path)

    return read_file(fetched(filename, name, fetch), map_location, filename)


def read_timm(filename: str, map_location=None) -> Checkpoint:
    """``timm://nextvit_small.bd_ssld_6m_in1k``: a pretrained model of timm's."""
    import timm

    name = filename.removeprefix('timm://')
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None or not cfg.hf_hub_id:
        near = timm.list_pretrained(f'{name.split(".")[0]}*')
        hint = f': there are {", ".join(near)}' if near else ''
        raise ValueError(f'{filename}: timm has no such weights{hint}')

    def fetch(path: Path) -> str:
        return hub_file(cfg.hf_hub_id, cfg.hf_hub_filename)

    path = fetched(filename, f'{name}.safetensors', fetch)
    return read_file(path, map_location, filename)


def read_hf(filename: str, map_location=None) -> Checkpoint:
    """``hf://owner/name[:file]``: a file of a repository on the Hugging Face hub."""
    match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?::(.+))?', filename)
    if not match:
        raise ValueError(f'{filename}: write hf://OWNER/NAME or hf://OWNER/NAME:FILE')
    repository, file = match.groups()
    name = f'{repository.replace("/", "--")}--{file or "model.safetensors"}'
    path = fetched(
        filename, name.replace('/', '--'), lambda _: hub_file(repository, file)
    )
    return read_file(path, map_location, filename)


def hub_file(repository: str, file: str | None) -> str:
    """Downloads a file of the Hugging Face hub, or its usual weights."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = repository.partition('@')
    files = [file] if file else ['model.safetensors', 'pytorch_model.bin']
    for name in files:
        try:
            return hf_hub_download(repository, name, revision=revision or None)
        except LocalEntryNotFoundError:  # no network: the other file isn't there either
            raise
        except EntryNotFoundError:
            if name == files[-1]:
                raise


def _safe(load: Callable) -> Callable:
    """One of MMEngine's other loaders, held to torch's safe reader."""

    @wraps(load)
    def read(filename: str, map_location=None, **kwargs) -> dict:
        try:
            with forced_weights_only(True):
                return load(filename, map_location, **kwargs)
        except pickle.UnpicklingError as error:
            raise refused(filename, error) from None

    return read


# torchvision:// and open-mmlab:// end in MMEngine's http loader.
mmengine_checkpoint.load_from_http = read_http
for _prefix, _load in list(CheckpointLoader._schemes.items()):
    CheckpointLoader.register_scheme(_prefix, _safe(_load), force=True)
for _prefix, _load in {
    '': read_file,
    'http://': read_http,
    'https://': read_http,
    'timm://': read_timm,
    'hf://': read_hf,
}.items():
    CheckpointLoader.register_scheme(_prefix, _load, force=True)


# ---------------------------------------------------------------------- conversion


@dataclass
class Weights:
    """A checkpoint's weights under our names.

    Attributes:
        state: Our names to tensors; the backbone's begin with ``backbone.``.
        layout: Key of :data:`~mmnextvit.weights.layouts.FORMATS` that the file had.
        facts: What a YOLOv5 file says of ``anchors`` (pixels), ``strides``, ``classes``
            and ``bn_eps``.
    """

    state: dict[str, Tensor]
    layout: str
    facts: dict[str, object] = field(default_factory=dict)


def weights_of(
    content: Mapping,
    source: str,
    numbering: Numbering = YOLOV5,
    timm_model: TimmFeatures | None = None,
) -> Weights:
    """The weights that a file's content holds, under our names.

    Args:
        content: What :func:`read_checkpoint` gave.
        source: Name of the file, for messages.
        numbering: Where a YOLOv5 file's modules stand.
        timm_model: The backbone to fill, where it is one of timm's: names that are not
            a detector's then are of its classifier or its own.

    Raises:
        ValueError: It holds no state dict, or one of unknown names.
    """
    facts = {}
    model = next(
        (content[k] for k in ('ema', 'model') if isinstance(content.get(k), Record)),
        None,
    )
    try:
        if model is not None:
            state, facts = yolov5_state(model)
        else:
            keys = 'state_dict', 'model'
            state = next(
                (content[k] for k in keys if _is_state(content.get(k))), content
            )
        state = {
            re.sub(r'^module\.', '', k): v
            for k, v in state.items()
            if isinstance(v, Tensor)
        }
        detectors = FORMATS['yolov5'], FORMATS['ours']
        if timm_model and not any(layout.matches(set(state)) for layout in detectors):
            state, facts['left out'] = timm_model.from_timm(state)
            state = {f'backbone.{k}': v for k, v in state.items()}
            return Weights(state, 'timm', facts)
        layout = recognised(set(state))
        state = formats(numbering)[layout].to_ours(state)
    except ValueError as error:
        raise ValueError(f'{source} holds no weights for this model: {error}') from None
    return Weights(state, layout, facts)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(v, Tensor) for v in value.values()
    )


def yolov5_state(model: Record) -> tuple[dict[str, Tensor], dict[str, object]]:
    """State dict of a pickled YOLOv5 model, as it was stored, and what it tells.

    Half precision stays until a model's own tensors are filled or :func:`widened` is
    called: both at once would be three times the file.

    Raises:
        ValueError: It is another model.
    """
    state, eps, modules = {}, set(), {}
    for path, module in named_modules(model):
        for table in ('_parameters', '_buffers'):
            tensors = module.attribute(table)
            for name, value in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(name, str) and isinstance(value, Tensor):
                    state[path + name] = value
        if (
            isinstance(module.attribute('eps'), float)
            and 'BatchNorm2d' in module.source
        ):
            eps.add(module.attribute('eps'))
        if match := re.fullmatch(r'model\.([0-9]+)\.', path):
            modules[int(match[1])] = module
    if not modules:
        raise ValueError(f'{model.source} has no numbered modules, as YOLOv5 has')
    facts = dict(bn_eps=sorted(eps))
    last = max(modules)
    strides = modules[last].attribute('stride')
    anchors = state.get(f'model.{last}.anchors')
    if isinstance(strides, Tensor) and strides.ndim == 1 and len(strides) < 10:
        facts['strides'] = strides.int().tolist()
        if anchors is not None and anchors.ndim == 3 and len(anchors) == len(strides):
            pixels = anchors.float() * strides.float().view(-1, 1, 1)
            facts['anchors'] = pixels.round(decimals=2).tolist()
    names = model.attribute('names')
    names = list(names.values()) if isinstance(names, dict) else names
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        facts['classes'] = names
    return state, facts


def widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with half precision as float32."""
    half = torch.float16, torch.bfloat16
    return {k: v.float() if v.dtype in half else v for k, v in state.items()}


# ------------------------------------------------------------------------ receipt


@dataclass
class Fit:
    """Which tensors of a file fit a model.

    Attributes:
        fitting: Names whose shapes agree.
        reshaped: Name to its shape in the file and in the model, where they differ.
        missing: Names that only the model has.
        unexpected: Names that only the file has.
        reason: The likely cause as a sentence, or an empty text.
    """

    fitting: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unexpected: list[str]
    reason: str

    @property
    def complete(self) -> bool:
        return not (self.reshaped or self.missing or self.unexpected)

    def fits(self, prefix: str) -> bool:
        """Whether every tensor of the model's part ``prefix`` is filled."""
        return not any(n.startswith(prefix) for n in (*self.reshaped, *self.missing))

    def __str__(self) -> str:
        total = len(self.fitting) + len(self.reshaped) + len(self.missing)
        lines = [f"{len(self.fitting)} of the model's {total} tensors fit"]
        reshaped = [
            f'{name} ({_shape(file)} in the file, {_shape(model)} in the model)'
            for name, (file, model) in self.reshaped.items()
        ]
        for title, names in (
            ('other shape', reshaped),
            ('not in the file', self.missing),
            ('not in the model', self.unexpected),
        ):
            if names:
                lines.append(f'  {title}: {_listed(names)}')
        return '\n'.join([*lines, self.reason] if self.reason else lines)


def fit(model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor]) -> Fit:
    """Compares a model's state dict with a file's, by name and shape.

    A leading ``module.`` in the file is taken off as MMEngine does, and the batch
    counters of BatchNorm are left out: nothing depends on them.
    """

    def shapes(state):
        return {
            re.sub(r'^module\.', '', name): tuple(tensor.shape)
            for name, tensor in state.items()
            if not name.endswith('num_batches_tracked')
        }

    model, file = shapes(model_state), shapes(file_state)
    both = [name for name in model if name in file]
    reshaped = {n: (file[n], model[n]) for n in both if file[n] != model[n]}
    missing = [name for name in model if name not in file]
    unexpected = [name for name in file if name not in model]
    reason = ''
    if _blocks(file) != _blocks(model) and _blocks(file) and _blocks(model):
        reason = (
            f'The file is of another arch: its backbone has {_arch(file)}, the '
            f"model's {_arch(model)}."
        )
    elif reshaped and all(n.startswith('bbox_head.') for n in reshaped):
        reason = 'Only the head differs in shape: another number of classes or anchors.'
    fitting = [name for name in both if name not in reshaped]
    return Fit(fitting, reshaped, missing, unexpected, reason)


@dataclass
class Receipt:
    """What a file brought to a model.

    Attributes:
        source: The file or address.
        layout: What the file's names are, such as 'timm'.
        digest: The first 16 hexadecimal digits of the file's SHA-256.
        found: Which tensors fit.
        notes: What else differs between file and model, a sentence each.
    """

    source: str
    layout: str
    digest: str
    found: Fit
    notes: list[str]

    def __str__(self) -> str:
        lines = [f'{self.source}: {FORMATS[self.layout].title}, sha256 {self.digest}']
        groups = self.by_part()
        parts = ', '.join(f'{name} {n}/{of}' for name, (n, of) in groups.items())
        lines += [str(self.found), f'  by part: {parts}']
        return '\n'.join([*lines, *(f'  note: {note}' for note in self.notes)])

    def by_part(self) -> dict[str, tuple[int, int]]:
        """How many tensors of how many fit, by stage and part of the model."""
        fitting = set(self.found.fitting)
        names = [*self.found.fitting, *self.found.reshaped, *self.found.missing]
        try:
            starts = stage_starts(_blocks(names))
        except ValueError:
            starts = [0]
        groups: dict[str, tuple[int, int]] = {}
        for name in names:
            parts = name.removeprefix('backbone.').removeprefix('model.')
            first, *rest = parts.split('.')
            if first == 'features' and len(starts) > 1:
                stage = max(
                    s for s, start in enumerate(starts) if start <= int(rest[0])
                )
                first = f'stage {stage}'
            n, of = groups.get(first, (0, 0))
            groups[first] = n + (name in fitting), of + 1
        order = ['stem', *sorted(g for g in groups if g.startswith('stage')), 'norm']
        return {g: groups[g] for g in (*order, *groups) if g in groups}


def adapt(
    content: dict,
    model: nn.Module,
    source: str = '',
    classes: Sequence[str] | None = None,
) -> Receipt:
    """Puts a checkpoint's weights under the model's names, in place.

    Args:
        content: What a checkpoint scheme gave; ``state_dict`` is set.
        model: A whole detector, or a backbone alone.
        source: Name of the file, where the content does not know it.
        classes: Names of the data's classes, to compare with a YOLOv5 file's.

    Raises:
        ValueError: It holds no weights of a NextViT, by their names.
    """
    source = getattr(content, 'source', source) or 'The checkpoint'
    timm_model = next((m for m in model.modules() if isinstance(m, TimmFeatures)), None)
    weights = weights_of(content, source, numbering_of(model), timm_model)
    own = model.state_dict()
    state = weights.state
    if not any(name.startswith('backbone.') for name in own):
        state = backbone_of(state)
    for key in ('model', 'ema'):
        content.pop(key, None)
    content['state_dict'] = state
    return Receipt(
        source,
        weights.layout,
        getattr(content, 'digest', 'unknown'),
        fit(own, state),
        differences(weights.facts, model, classes),
    )


def numbering_of(model: nn.Module) -> Numbering:
    """Where a YOLOv5 file's modules stand in a detector with a neck of rows."""
    neck = getattr(model, 'neck', None)
    in_rows = getattr(neck, 'in_rows', None)
    if in_rows is None:
        return Numbering()
    last = in_rows[-1]
    whole = not hasattr(model.backbone, 'out_rows')  # module 0 is the backbone
    inside = 'model.' if isinstance(model.backbone, TimmFeatures) else ''
    return Numbering(
        neck=last + 1,
        shift=last if whole else 0,
        detect=last + 1 + len(neck.rows),
        backbone=f'backbone.{inside}',
    )


def differences(
    facts: Mapping, model: nn.Module, classes: Sequence[str] | None = None
) -> list[str]:
    """How a YOLOv5 file's facts and a model differ, a sentence each."""
    notes = []
    if left := facts.get('left out'):
        notes.append(f'left out, as the model has no place for them: {_listed(left)}')
    head = getattr(model, 'bbox_head', None)
    priors = getattr(head, 'prior_generator', None)
    if priors is not None and 'strides' in facts:
        ours = [stride[0] for stride in priors.strides]
        if ours != facts['strides']:
            notes.append(
                f'strides {facts["strides"]} in the file, {ours} in the config'
            )
    if priors is not None and 'anchors' in facts:
        ours = torch.tensor(priors.base_sizes, dtype=torch.float)
        theirs = torch.tensor(facts['anchors'], dtype=torch.float)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3):
            notes.append(
                f'anchors {facts["anchors"]} in the file, {ours.tolist()} in the '
                'config: write those of the file as base_sizes of '
                'model.bbox_head.prior_generator'
            )
    if classes and 'classes' in facts and list(classes) != facts['classes']:
        notes.append(
            f'classes {facts["classes"]} in the file, {list(classes)} in the config'
        )
    eps = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    if facts.get('bn_eps') and eps and sorted(eps) != facts['bn_eps']:
        notes.append(
            f'BatchNorm eps {facts["bn_eps"]} in the file, {sorted(eps)} in the model: '
            'the outputs will differ'
        )
    return notes


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class Pretrained(PretrainedInit):
    """MMEngine's ``Pretrained`` initialisation, with a receipt for NextViT and timm.

    Other models are loaded as MMEngine does.

    Args:
        checkpoint: File or address, of any layout in
            :data:`~mmnextvit.weights.layouts.FORMATS`; for ``mmdet.TimmFeatures``
            timm's.
        partial: Whether less than the whole backbone is allowed; the receipt is a
            warning then.
        prefix: As in MMEngine; not needed here.
        map_location: As in MMEngine.

    Raises:
        ValueError: Less than the whole backbone fits.
    """

    def __init__(
        self,
        checkpoint: str,
        partial: bool = False,
        prefix: str | None = None,
        map_location: str = 'cpu',
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.partial = partial

    def __call__(self, module: nn.Module) -> None:
        if not any(isinstance(m, OURS) for m in module.modules()):
            super().__call__(module)
            return
        content = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        receipt = adapt(content, module, self.checkpoint)
        alone = isinstance(module, OURS)
        check(receipt, '' if alone else 'backbone.', self.partial, 'partial=True there')
        fitting = set(receipt.found.fitting)
        state = {k: v for k, v in content['state_dict'].items() if k in fitting}
        module.load_state_dict(state, strict=False)
        if hasattr(module, '_params_init_info'):  # MMEngine's list of what filled what
            update_init_info(module, init_info=self._get_init_info())


def check(
    receipt: Receipt, prefix: str | None, partial: bool = False, switch: str = ''
) -> None:
    """Logs a receipt, or raises it where the model's part ``prefix`` is not filled.

    Args:
        receipt: What :func:`adapt` gave.
        prefix: The part that must be filled, by its names' beginning; ``None`` where
            every tensor of the file and of the model must fit.
        partial: Whether less is allowed.
        switch: What a user may write to allow it.

    Raises:
        ValueError: Less fits than must.
    """
    found = receipt.found
    if partial or (found.complete if prefix is None else found.fits(prefix)):
        level = logging.INFO if found.complete else logging.WARNING
        print_log(str(receipt), logger='current', level=level)
        return
    wanted = 'all' if prefix is None else 'all of the backbone'
    allows = f' ({switch} allows less)' if switch else ''
    raise ValueError(
        f'{receipt.source} does not fit, and {wanted} must{allows}: {receipt}'
    )


def _blocks(names: Mapping) -> int:
    """Blocks of a NextViT among state-dict names; 0 if there is none."""
    found = (re.match(r'(?:backbone\.)?features\.(\d+)\.', name) for name in names)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _arch(names: Mapping) -> str:
    blocks = _blocks(names)
    archs = {sum(arch['depths']): name for name, arch in ARCHS.items()}
    name = f" (arch '{archs[blocks]}')" if blocks in archs else ''
    return f'{blocks} blocks{name}'


def _listed(names: list[str]) -> str:
    more = f', and {len(names) - SHOWN} more' * (len(names) > SHOWN)
    return f'{", ".join(names[:SHOWN])}{more}'


def _shape(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'
