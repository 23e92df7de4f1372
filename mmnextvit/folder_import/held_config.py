"""What a checkpoint's own config says of the detector that it is of.

MMEngine puts the text of the config into each checkpoint. It is a program, which is not
run: what is read of it are dicts, lists and plain values. Our reader of checkpoints
keeps the text where nothing else looks for it.
"""

import ast
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..tuning import NEXTVIT

MAX_TEXT = 10**6  # characters


def read_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` of the config in a checkpoint; empty where there is none to read.

    Args:
        content: What a checkpoint's reader gave.
    """
    meta = content.get('meta')
    text = meta.get('config_text') if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'model':
                model = _evaluate(node.value)
                return model if isinstance(model, dict) else {}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return {}


def _evaluate(node: ast.expr) -> Any:
    """A value that is written as ``dict(...)``, a list, a tuple, or a literal.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        if node.args:
            raise ValueError('a dict of another one')
        return {str(each.arg): _evaluate(each.value) for each in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = map(_evaluate, node.elts)
        return list(items) if isinstance(node, ast.List) else tuple(items)
    return ast.literal_eval(node)


def read_normalisation(model: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """``mean`` and ``std`` of R, G and B that a detector was trained with, if known."""
    values = model.get('data_preprocessor')
    values = values if isinstance(values, Mapping) else {}
    found: dict[str, list[float]] = {}
    for key in ('mean', 'std'):
        value = values.get(key)
        if not _is_colour(value):
            return None
        found[key] = [float(v) for v in value]
    return found


def _is_colour(value: object) -> TypeGuard[list[float] | tuple[float, ...]]:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(v, (int, float)) for v in value)
    )


def read_backbone(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights of a NextViT need that a config does not say by itself.

    That is the ``eps`` of its BatchNorms, with which the same weights give the same
    maps, and that it has no last norm.
    """
    backbone = model.get('backbone')
    if not isinstance(backbone, Mapping) or backbone.get('type') != NEXTVIT:
        return {}
    needs: dict[str, Any] = {}
    norm = backbone.get('norm_cfg')
    eps = norm.get('eps') if isinstance(norm, Mapping) else None
    if isinstance(eps, float):
        needs['norm_cfg'] = dict(eps=eps)
    if backbone.get('final_norm') is False:
        needs['final_norm'] = False
    return needs
