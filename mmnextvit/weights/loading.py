"""Brings weights of any known layout into a model, completely or with an error."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.fileio import register_handler
from mmengine.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..models.nextvit import NextViT
from ..models.timm_features import TimmFeatures
from ..models.yolov5_graph import RowGraph
from ..models.yolov5_row_rules import ROW_RULES
from ..utils.errors import UserError
from .class_rows import carry_classes
from .contents import extract_weights, read_classes
from .handlers import PlainPickleHandler, PlainYamlHandler
from .image_channels import fit_image_channels
from .layouts import Numbering, extract_backbone
from .receipt import Receipt, describe_differences, fit
from .sources import SCHEMES, SafeTorch, explain, read_http

OURS = NextViT, TimmFeatures  # backbones whose weights come with a receipt


def register_loaders() -> None:
    """Puts our readers in the place of MMEngine's, for the whole process.

    ``import mmnextvit`` calls it, by :mod:`mmnextvit._register`. It changes

    - the schemes of :class:`mmengine.runner.CheckpointLoader`: paths and http(s) are
      read without running what a file holds, and ``timm://MODEL.TAG`` and
      ``hf://OWNER/NAME[:FILE]`` are new;
    - ``load_from_http`` and ``torch.load`` as ``mmengine.runner.checkpoint`` sees them,
      in which its other loaders end, such as ``torchvision://`` and ``s3://``;
    - MMEngine's handlers of pickles and of YAML files, which become those of
      :mod:`~mmnextvit.weights.handlers`;
    - the initialiser ``Pretrained``, which becomes :class:`Pretrained`;
    - MMEngine's inferencers, which run no config out of a checkpoint.
    """
    register_handler(['pkl', 'pickle'])(PlainPickleHandler)
    register_handler(['yaml', 'yml'])(PlainYamlHandler)
    mmengine_checkpoint.load_from_http = read_http
    mmengine_checkpoint.torch = SafeTorch()
    for prefix, load in list(CheckpointLoader._schemes.items()):
        CheckpointLoader.register_scheme(prefix, explain(load), force=True)
    for prefix, read in SCHEMES.items():
        CheckpointLoader.register_scheme(prefix, read, force=True)
    WEIGHT_INITIALIZERS.register_module('Pretrained', force=True, module=Pretrained)
    BaseInferencer._init_model = require_config(BaseInferencer._init_model)


def require_config(
    init_model: Callable[..., nn.Module],
) -> Callable[..., nn.Module]:
    """An inferencer's ``_init_model`` that builds nothing without a config."""

    @functools.wraps(init_model)
    def init_with_config(
        self: BaseInferencer, cfg: Any, weights: str | None, device: str = 'cpu'
    ) -> nn.Module:
        if not cfg:
            raise UserError(
                'the config inside a checkpoint is a program, which is not run: give '
                'the file of the config too (model=CONFIG)',
                file=weights,
            )
        return init_model(self, cfg, weights, device)

    return init_with_config


def adapt(
    content: dict,
    model: nn.Module,
    source: str = '',
    classes: Sequence[str] | None = None,
    starts_training: bool = False,
    fits_images: bool | None = None,
) -> Receipt:
    """Puts a checkpoint's weights under the model's names, in place.

    Where a training starts from them, they may be of a detector for other classes: see
    :func:`~.class_rows.carry_classes`.

    Args:
        content: What a checkpoint scheme gave; ``state_dict`` is set.
        model: A whole detector, or a backbone alone.
        source: Name of the file, where the content does not know it.
        classes: Names of the data's classes, to compare with the file's.
        starts_training: Whether rows of classes are carried over by their names.
        fits_images: Whether weights for images of another number of channels are
            summed or repeated; where a training starts, if ``None``.

    Raises:
        UserError: It holds no weights of a NextViT, by their names, or its classes are
            no names.
    """
    source = getattr(content, 'source', source) or 'The checkpoint'
    timm_model = next((m for m in model.modules() if isinstance(m, TimmFeatures)), None)
    weights = extract_weights(content, source, find_numbering(model), timm_model)
    theirs = None
    if classes is not None or starts_training:
        theirs = read_classes(content, weights.metadata, source)
    own = model.state_dict()
    state, carried = weights.state, None
    if starts_training:
        state, carried = carry_classes(model, state, classes, theirs)
    if not any(name.startswith('backbone.') for name in own):
        state = extract_backbone(state)
    notes: list[str] = []
    if starts_training if fits_images is None else fits_images:
        state, notes = fit_image_channels(model, state)
    for key in ('model', 'ema'):
        content.pop(key, None)
    content['state_dict'] = state
    return Receipt(
        source,
        weights.layout,
        getattr(content, 'digest', 'unknown'),
        fit(own, state),
        notes
        + describe_differences({**weights.metadata, 'classes': theirs}, model, classes),
        carried,
    )


def find_numbering(model: nn.Module) -> Numbering:
    """Where a YOLOv5 file's modules stand in a detector with a neck of rows."""
    neck = getattr(model, 'neck', None)
    in_rows = getattr(neck, 'in_rows', None)
    if neck is None or in_rows is None:
        return Numbering()
    last = in_rows[-1]
    whole = not hasattr(model.backbone, 'out_rows')  # module 0 is the backbone
    inside = 'model.' if isinstance(model.backbone, TimmFeatures) else ''
    return Numbering(
        neck=last + 1,
        shift=last if whole else 0,
        detect=last + 1 + len(neck.rows),
        backbone=f'backbone.{inside}',
        names=find_names(model.neck, model.backbone),
    )


def find_names(*parts: nn.Module) -> dict[int, dict[str, str]]:
    """YOLOv5's names of parameters, and ours, by the number of the row."""
    names = {}
    for part in parts:
        graph = getattr(part, 'rows', None)
        if not isinstance(graph, RowGraph):
            continue
        for row in graph.rows:
            rule = ROW_RULES[row.module]
            stacked = row.copies > 1 and not rule.takes_repeats
            prefixes = [f'{i}.' for i in range(row.copies)] if stacked else ['']
            names[row.number] = {
                p + theirs: p + ours
                for p in prefixes
                for theirs, ours in rule.names.items()
            }
    return names


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
        UserError: Less than the whole backbone fits.
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
        receipt = adapt(content, module, self.checkpoint, fits_images=True)
        alone = isinstance(module, OURS)
        check(receipt, '' if alone else 'backbone.', self.partial, 'partial=True there')
        fitting = set(receipt.fit.fitting)
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
        UserError: Less fits than must, or the file holds NaN or infinity.
    """
    if broken := receipt.fit.not_finite:
        raise UserError(
            f'{len(broken)} of its tensors hold NaN or infinity, the first of them '
            f'{broken[0]}: its training went wrong. Take an earlier checkpoint',
            file=receipt.source,
        )
    complete = receipt.fit.complete
    if partial or (complete if prefix is None else receipt.fit.fills(prefix)):
        level = logging.INFO if complete else logging.WARNING
        print_log(str(receipt), logger='current', level=level)
        return
    wanted = 'all' if prefix is None else 'all of the backbone'
    allows = f' ({switch} allows less)' if switch else ''
    raise UserError(
        f'the weights do not fit, and {wanted} must{allows}: {receipt}',
        file=receipt.source,
    )
