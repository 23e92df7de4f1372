"""Config files: what follows from a change of a variable, and which nothing reads.

MMEngine runs a config file after those that it inherits from, and changes afterwards
what came out. Whatever a variable of the file went into stays as it was by then. So
where a variable is to change, the files are run once more with the new value.
"""

import ast
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.config import config as mmengine_config

from ..recipes import DATASETS, SETTINGS
from ..utils.errors import UserError, naming_file
from ..utils.messages import show, tell
from .known_keys import (
    EXTRA,
    LIKE,
    RUNNER_KEYS,
    check_keys,
    explain_extra,
    find_like,
    is_in,
    list_arguments,
    list_leaves,
    suggest,
)

ASKED = '+'  # before a key that is to be added, whatever reads it
# Variables that are read by their name, without a file that does: by fit_recipe, by
# the commands, by MMDetection's scripts and inference, and by mmnextvit
# compute_anchors.
FITTED_KEYS = {*SETTINGS, *DATASETS, 'class_ids'}
NAMED_KEYS = {
    *RUNNER_KEYS,
    'img_scale',
    'in_channels',
    'recipe',
    'test_pipeline',
    'tta_model',
    'tta_pipeline',
}
# Names that are bound inside of these are no variables of the file.
SCOPES = (
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Lambda,
    ast.FunctionDef,
    ast.ClassDef,
)

_CHANGES: ContextVar[Mapping[tuple[str, str], Mapping[str, Any]]] = ContextVar(
    'changes'
)
_LOCK = RLock()


class Source(NamedTuple):
    """A file that a config was made of."""

    path: str
    tree: ast.Module


def read_changed(
    read: Callable[[], Config],
    options: Mapping[str, Any],
    adjust: Callable[[Config], object] = lambda cfg: None,
) -> Config:
    """A config with options, and with all that follows from variables among them.

    Args:
        read: Reads the config's file.
        options: Values by key. One that begins with ``+`` is added, whatever reads it.
        adjust: Changes the config once variables are set, and before single values are.

    Raises:
        UserError: Nothing reads a key of the options or of the config, or follows a
            variable, or a key cannot be set; it has the key.
    """
    cfg = read()
    settings = SETTINGS.keys() if 'recipe' in cfg else set()
    bound = {name for source in list_sources(cfg) for name in list_variables(source)}
    variables: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for key, value in options.items():
        name, _, inner = key.partition('.')
        if name in bound and name in cfg and name not in (*RUNNER_KEYS, *settings):
            variables.setdefault(name, {})[inner] = value
        else:
            others[key.removeprefix(ASKED)] = value
    cfg = _change_variables(read, cfg, variables)
    adjust(cfg)
    asked = [k.removeprefix(ASKED) for k in options if k.startswith(ASKED)]
    added = []
    for key, value in others.items():
        name, *inner_keys = key.split('.')
        if name not in (*RUNNER_KEYS, *settings) and key not in asked:
            raise _explain_unfollowed(cfg, key, explain_extra(key, True))
        with naming_file(cfg.filename):
            found = find(cfg, [name, *inner_keys])
            if key not in asked and not found.is_there:
                added.append(found.key)
            cfg[name] = put(cfg.get(name), inner_keys, value, name)
    if asked:
        cfg[EXTRA] = sorted({*(cfg.get(EXTRA) or ()), *asked})
    check_config(cfg, added)
    return cfg


def check_config(cfg: Config, added: Collection[str] = ()) -> None:
    """Checks that something reads each key of a config.

    Args:
        cfg: The config.
        added: Keys that a command line added: these must be known to be read.

    Raises:
        UserError: Nothing reads one; it has the key and similar ones.
    """
    _check_variables(cfg)
    check_keys(cfg, added)


def _check_variables(cfg: Config) -> None:
    """Checks that no variable of a config's files stands for a key that is read.

    A plain helper variable that nothing uses does no harm. But one that is called like
    a key is meant as that key.

    Raises:
        UserError: Nothing reads one; it has similar keys.
    """
    sources = list_sources(cfg)
    fitted = FITTED_KEYS if 'recipe' in cfg else set()
    extra = cfg.get(EXTRA) or ()
    leaves: dict[str, Any] | None = None
    unread = list(_find_unread_variables(sources))
    written = {name for source in sources for name in list_variables(source)}
    unread += [(None, None, name) for name in cfg if name not in written]
    for file, line, name in unread:
        known = name.startswith('_') or name in NAMED_KEYS | fitted
        if known or name not in cfg or is_in(name, extra):
            continue
        near = find_like(name, RUNNER_KEYS, LIKE)
        if file is None:  # val_evaluator_full is another one
            near = [key for key in near if abs(len(key) - len(name)) <= 2]
        if not near:
            leaves = list_leaves(cfg) if leaves is None else leaves
            near = find_like(name, fitted, LIKE) or find_like(name, leaves, LIKE)
            if file is None:
                near = [key for key in near if _is_misspelt(name, key)]
        if near:
            problem = f'nothing reads it{suggest(near)}{explain_extra(name, False)}'
            raise UserError(problem, file=file or cfg.filename, line=line, key=name)


def _is_misspelt(name: str, key: str) -> bool:
    """Whether a name is that of a key but for case and underscores.

    What was dumped has all the variables of the files that it came from. They may have
    the name of a key, or a similar one.
    """
    last = key.rpartition('.')[2]
    same = name.replace('_', '').lower() == last.replace('_', '').lower()
    return same and name != last


def _find_unread_variables(
    sources: Sequence[Source],
) -> Iterator[tuple[str | None, int | None, str]]:
    """File, line and name of what is assigned in the user's files and never used.

    File and line are ``None`` for those of a file without an expression in it, as
    MMEngine writes it.
    """
    uses = [_list_used(source.tree) for source in sources]
    for i, source in enumerate(sources):
        if {'.mim', 'site-packages'} & {*Path(source.path).parts}:
            continue
        used = set().union(*uses[i:])
        if used & {'locals', 'vars', 'eval', 'exec'}:
            continue
        variables = list_variables(source)
        plain = '_base_' not in variables and not uses[i] - {'dict'}
        for name, line in variables.items():
            if name not in used:
                yield (None, None, name) if plain else (source.path, line, name)


def list_sources(cfg: Config) -> list[Source]:
    """The files of a config, those that it inherits from first; nothing if unknown.

    MMEngine's text of a config is that of its files, each with its path before it.
    """
    return [*_parse_files(cfg.text)]


@lru_cache(maxsize=4)  # a config is asked for its files several times
def _parse_files(text: str) -> tuple[Source, ...]:
    """The files in the text of a config."""
    texts: dict[str, list[str]] = {}
    path = ''
    for line in text.split('\n'):
        if os.path.isabs(line) and Path(line).suffix in (
            '.py',
            '.yml',
            '.yaml',
            '.json',
        ):
            path = line
            texts[path] = []
        elif path:
            texts[path].append(line)
    try:
        return tuple(
            Source(path, ast.parse('\n'.join(lines)))
            for path, lines in texts.items()
            if path.endswith('.py')
        )
    except SyntaxError:  # before MMEngine puts values into it
        return ()


def list_variables(source: Source) -> dict[str, int]:
    """The variables that a file assigns, with the line where it first does."""
    found: dict[str, int] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, node.lineno)
        if not isinstance(node, SCOPES):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(source.tree)
    return found


def _list_used(tree: ast.Module) -> set[str]:
    """The names that a file uses, in itself or in what it inherits."""
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)  # of _base_
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.update(re.findall(r'_base_\.(\w+)', node.value))
    return used


def _change_variables(
    read: Callable[[], Config], cfg: Config, variables: Mapping[str, Mapping[str, Any]]
) -> Config:
    """A config that is read once more with other values of variables.

    Args:
        read: Reads the config's file.
        cfg: The config as it is.
        variables: Values by the keys inside of a variable, by its name.

    Raises:
        UserError: Nothing follows one of them.
    """
    places = {n: s.path for s in list_sources(cfg) for n in list_variables(s)}
    changes = {
        (places[name], name): values
        for name, values in variables.items()
        if _change(cfg[name], values, name) != cfg[name]
    }
    if not changes:
        return cfg
    changed = _read_with(read, cfg, changes)
    for place in changes:
        rest = {key: value for key, value in changes.items() if key != place}
        without = _read_with(read, cfg, rest) if rest else cfg
        if all(without.get(key) == changed.get(key) for key in RUNNER_KEYS):
            raise _explain_unfollowed(cfg, place[1], explain_extra(place[1], True))
    return changed


def _explain_unfollowed(cfg: Config, key: str, more: str) -> UserError:
    """What to write in place of an option that changes nothing."""
    name = key.partition('.')[0]
    leaves = list_leaves(cfg)
    settings = SETTINGS if 'recipe' in cfg else ()
    near = find_like(name, (*settings, *RUNNER_KEYS), LIKE)
    near = near or find_like(name, leaves, LIKE)
    near = near or find_like(name, list_arguments(cfg), LIKE) or find_like(name, leaves)
    values = [leaves[key] for key in near if isinstance(leaves.get(key), (str, tuple))]
    # A variable that one of them has its value from takes all of them along.
    sources = [
        other
        for source in list_sources(cfg)
        for other in list_variables(source)
        if other != name and values and cfg.get(other) in values
    ]
    problem = f'nothing in this config follows it{suggest([*sources, *near][:3])}{more}'
    return UserError(problem, file=cfg.filename, key=key)


def _read_with(
    read: Callable[[], Config],
    cfg: Config,
    changes: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Config:
    """The config with changes of variables, by the path of their file and their name.

    Raises:
        UserError: The config's own code cannot go on with them.
    """
    try:
        with _changing(changes):
            return read()
    except UserError:
        raise
    except Exception as error:
        name = ' '.join(name for _, name in changes)
        problem = f'the config cannot be computed with this value: {tell(error)}'
        raise UserError(problem, file=cfg.filename, key=name) from error


@contextmanager
def _changing(
    changes: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[None]:
    """Has config files run with other values of variables.

    MMEngine compiles each file by the name ``compile``.
    """

    def compile_changed(code: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        names = {name for path, name in changes if path == filename}
        if isinstance(code, ast.Module) and names:
            code = _insert_changes(code, filename, names)
        return compile(code, filename, *args, **kwargs)

    with _LOCK:
        token = _CHANGES.set(changes)
        mmengine_config.compile = compile_changed
        try:
            yield
        finally:
            del mmengine_config.compile
            _CHANGES.reset(token)


def _insert_changes(tree: ast.Module, path: str, names: Collection[str]) -> ast.Module:
    """A file that changes each of some variables wherever it has been assigned."""
    body: list[ast.stmt] = []
    for statement in tree.body:
        body.append(statement)
        one = Source(path, ast.Module([statement], []))
        for name in sorted(list_variables(one).keys() & names):
            call = f"__import__({__name__!r}, fromlist=['_']).change_variable"
            code = ast.parse(f'{name} = {call}({path!r}, {name!r}, {name})')
            body += code.body
    return ast.Module(body, tree.type_ignores)


def change_variable(path: str, name: str, value: Any) -> Any:
    """The value that a variable of a config file has in its place, while it is changed.

    Args:
        path: The file.
        name: The variable.
        value: What the file assigns to it.
    """
    return _change(value, _CHANGES.get()[path, name], name)


def _change(node: Any, values: Mapping[str, Any], name: str) -> Any:
    """A variable with values by the keys inside of it; '' is the variable itself."""
    for key, value in values.items():
        folders = (
            isinstance(node, str) and node.endswith('/') and isinstance(value, str)
        )
        if folders and not value.endswith('/'):
            value += '/'  # since the file may append names to it
        node = put(node, key.split('.') if key else [], value, name)
    return node


def put(node: Any, keys: Sequence[str], value: Any, place: str) -> Any:
    """A copy of a part of a config in which a key has another value.

    Args:
        node: The part. In lists keys are indices, which may count from the end.
        keys: The keys to go along; none of them for the part itself.
        value: The value. One that is a dict is merged into the one that is there.
        place: The key of the part.

    Raises:
        UserError: There is no such place.
    """
    if not keys:
        if isinstance(value, dict) and isinstance(node, dict):
            return Config._merge_a_into_b(ConfigDict(value), node)
        return value
    step, *rest = keys
    if isinstance(node, (list, tuple)):
        items = list(node)
        index = _read_index(step, len(items), place)
        items[index] = put(items[index], rest, value, f'{place}.{step}')
        return type(node)(items)
    if node is None:
        node = ConfigDict()
    if not isinstance(node, dict):
        problem = f'{place} is {show(node)}, and holds no keys: set {place} itself'
        raise UserError(problem, key='.'.join([place, *keys]))
    changed = node.copy()
    changed[step] = put(node.get(step), rest, value, f'{place}.{step}')
    return changed


def _read_index(step: str, count: int, place: str) -> int:
    """The index in a list of so many items that a key is."""
    if re.fullmatch(r'-?\d+', step, re.A) and -count <= int(step) < count:
        return int(step)
    allowed = f'write 0 to {count - 1}' if count else 'it is empty'
    problem = f'{place} is a list of {count}: {allowed}, not {show(step)}'
    raise UserError(problem, key=f'{place}.{step}')


class Found(NamedTuple):
    """A place in a config.

    Attributes:
        key: Its key, with indices that count from the beginning.
        is_there: Whether there is something, be it ``None``.
    """

    key: str
    is_there: bool


def find(node: Any, keys: Sequence[str]) -> Found:
    """The place in a config that keys lead to.

    Raises:
        UserError: A list on the way has no such index.
    """
    done: list[str] = []
    for i, step in enumerate(keys):
        if isinstance(node, (list, tuple)):
            index = _read_index(step, len(node), '.'.join(done)) % len(node)
            node, step = node[index], str(index)
        elif isinstance(node, (dict, Config)) and step in node:
            node = node[step]
        else:
            return Found('.'.join([*done, *keys[i:]]), False)
        done.append(step)
    return Found('.'.join(done), True)
