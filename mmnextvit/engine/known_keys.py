"""Which keys of a config something reads, and what was meant by the others.

MMEngine adds whatever key it is given, and most of what it builds is silent about one
that it does not know, or fails late. Here a key is known if

- the class or function that its dict is for has an argument of that name, where
  ``**kwargs`` are handed on to the class above, those of that class too; or
- the source of the classes that a dict without a type reaches mentions it.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry, root
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
    set_random_seed,
)
from mmengine.utils import import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..recipes import DATASETS
from ..utils.errors import UserError
from ..utils.messages import first_few, show

EXTRA = 'extra_keys'  # a setting: keys that only the user's own code reads
MAX_LISTED = 50  # names, where none is similar; what sources mention are thousands
LIKE = 0.85  # from which similarity on a name is taken for a misspelt one
ROOTS = tuple(each for each in vars(root).values() if isinstance(each, Registry))

# What MMEngine's runner is given, what it reads from its config by itself, and what is
# read as the file is.
RUNNER_KEYS = (
    *(key for key in inspect.signature(Runner).parameters if key != 'cfg'),
    *sorted({*re.findall(r"self\.cfg\.get\(\s*'(\w+)'", inspect.getsource(Runner))}),
    'custom_imports',
    'env_variables',
    'predict_resizing',
    'report',
    'runner_type',
    EXTRA,
)

LOADER_KEYS = ('batch_sampler', 'collate_fn', 'dataset', 'num_batch_per_epoch')
HOOK_NAMES = tuple(
    re.findall(
        r'^\s+(\w+)=dict\(type=', inspect.getsource(Runner.register_default_hooks), re.M
    )
)
# What reads the dicts whose place says what they are for: callables, whose arguments
# they may hold, and names of further keys.
PLACES: dict[str, tuple[Callable | str, ...]] = {
    'train_cfg': (EpochBasedTrainLoop, IterBasedTrainLoop, 'by_epoch'),
    'val_cfg': (ValLoop,),
    'test_cfg': (TestLoop,),
    **{f'{split}_dataloader': (DataLoader, *LOADER_KEYS) for split in DATASETS},
    'optim_wrapper': (OptimWrapper, 'constructor', 'paramwise_cfg'),
    'val_evaluator': (Evaluator,),
    'test_evaluator': (Evaluator,),
    'log_processor': (LogProcessor,),
    'visualizer': (Visualizer,),
    'auto_scale_lr': ('base_batch_size', 'enable'),
    'randomness': (set_random_seed,),
    'env_cfg': (
        'cuda_graphs',
        'cudnn_benchmark',
        'dist_cfg',
        'memory_format',
        'mp_cfg',
        'recompute_norms',
        'resource_limit',
    ),
    'env_cfg.mp_cfg': (set_multi_processing,),
    'env_cfg.dist_cfg': (init_dist, 'timeout', 'init_backend', 'port'),
    'custom_imports': (import_modules_from_strings,),
    'optim_wrapper.clip_grad': (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_),
}
# Dicts whose keys the user makes up, by their last key, and the names that are usual.
FREE = {
    'caption_prompt': (),
    'custom_keys': (),
    'data_prefix': ('img', 'img_path', 'seg', 'seg_map_path', 'sub_data_root'),
    'default_hooks': HOOK_NAMES,
    'metainfo': ('classes', 'palette'),
    'env_variables': (),
    'recipe': (),
}
FRAMEWORK_KEYS = {'type', '_scope_', '_delete_'}
# What who builds such a dict takes out of it, by its last key.
ARGUMENTS = {'norm_cfg': ('requires_grad',)}
BUILDER = 'mmengine.registry.build_functions'
# Where more is read of what dicts without a type hold: of all, and by their last key.
HELPERS = (
    'mmengine.model.base_module',
    'mmengine.optim.optimizer.default_constructor',
    'mmengine.runner.runner',
    BUILDER,
)
SPECIAL_HELPERS = {'nms': ('mmcv.ops.nms',)}
PACKAGES = ('mmcv', 'mmdet', 'mmengine', 'mmnextvit')


class Doubt(NamedTuple):
    """From which similarity on to another name a key is taken for misspelt.

    Attributes:
        in_file: Where the config has it.
        if_added: Where a command line adds it.
    """

    in_file: float
    if_added: float


CERTAIN = Doubt(0, 0)  # whatever else there is
LIKELY = Doubt(LIKE, 0)
TAKEN_OUT = Doubt(2, 0)  # None: an error only where there is no such hook to take out
UNMENTIONED = Doubt(0.8, 0)  # the keys of some dicts are names of the user's
SLIGHT = Doubt(2, 0.7)  # never in a file


class Unread(NamedTuple):
    """A key that nothing seems to read.

    Attributes:
        key: The key, with those above it.
        problem: Who does not read it.
        known: Keys that would be read in its place.
        doubt: When it is an error.
    """

    key: str
    problem: str
    known: tuple[str, ...]
    doubt: Doubt


def check_keys(cfg: Config, added: Collection[str] = ()) -> None:
    """Checks that something reads each key inside a config's parts.

    Args:
        cfg: The config. Its ``extra_keys`` are let through.
        added: Keys that a command line added where there were none: these must be known
            to be read.

    Raises:
        UserError: Nothing reads one; it has the key and similar ones.
    """
    extra = cfg.get(EXTRA) or ()
    for unread in find_unread(cfg):
        if is_in(unread.key, extra):
            continue
        is_added = any(is_in(key, [unread.key]) for key in added)
        name = unread.key.rpartition('.')[2]
        least = unread.doubt.if_added if is_added else unread.doubt.in_file
        if not least or find_like(name, unread.known, least):
            near = find_like(name, unread.known)
            if not near:  # it may belong elsewhere
                leaves = (key for key in list_leaves(cfg) if key != unread.key)
                near = find_like(name, leaves, LIKE)
            known = f': there are {first_few(unread.known, 20)}.'
            there_are = known if len(unread.known) <= MAX_LISTED else '.'
            problem = unread.problem + (suggest(near) if near else there_are)
            more = explain_extra(unread.key, is_added)
            raise UserError(problem + more, file=cfg.filename, key=unread.key)


def suggest(near: Sequence[str]) -> str:
    """The end of a message about a name that is not known."""
    return f': did you mean {" or ".join(near)}?' if near else '.'


def explain_extra(key: str, is_added: bool) -> str:
    """How a key is let through that only code of the user's reads."""
    if is_added:
        return f' To add it all the same, write +{key}=...'
    return f" If it is for code of your own, write {EXTRA} = ['{key}'] in the config."


def is_in(key: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of some keys, or inside of one."""
    return any(f'{key}.'.startswith(f'{each}.') for each in keys)


def find_like(name: str, known: Iterable[str], least: float = 0.6) -> list[str]:
    """Up to three similar names, the most similar first; case doesn't count.

    Args:
        name: What was written.
        known: Names that are possible; of one with dots the last part counts.
        least: The least similarity, from 0 to 1.
    """
    wanted = _normalise(name)
    found: list[tuple[float, int, int, str]] = []
    for each in dict.fromkeys(known):
        other = _normalise(each.rpartition('.')[2])
        matcher = SequenceMatcher(None, wanted, other, autojunk=False)
        if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least:
            ratio = matcher.ratio()
            if ratio >= least:
                found.append((-ratio, each.count('.'), len(found), each))
    best = sorted(found)[:3]
    # Next to a name that is all but the same, others only distract.
    return [each for ratio, *_, each in best if ratio <= best[0][0] + 0.15]


def _normalise(name: str) -> str:
    return name.lower().replace('_', '').replace('-', '')[:50]


def find_unread(cfg: Config) -> Iterator[Unread]:
    """The keys inside the parts of a config that nothing seems to read."""
    for part in _list_parts(cfg):
        yield from part.check(part.node, part.name)


def list_leaves(cfg: Config) -> dict[str, Any]:
    """The values inside the parts of a config, by their keys, at every depth."""

    def walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
        items: Iterable[tuple[Any, Any]] = ()
        if isinstance(node, dict):
            items = node.items()
        elif isinstance(node, (list, tuple)):
            items = enumerate(node)
        for name, value in items:
            if isinstance(node, dict) and name not in FRAMEWORK_KEYS:
                yield f'{key}.{name}', value
            yield from walk(value, f'{key}.{name}')

    return {k: v for part in _list_parts(cfg) for k, v in walk(part.node, part.name)}


def list_arguments(cfg: Config) -> list[str]:
    """Keys that a config may set in its model, its data and so on, and does not."""

    def walk(part: '_Part', node: Any, key: str) -> Iterator[str]:
        if isinstance(node, dict):
            made = part.readers[id(node)]
            names = {name for each in made for name in read_arguments(each).names}
            yield from (f'{key}.{name}' for name in sorted(names - {*node}))
            for name, value in node.items():
                yield from walk(part, value, f'{key}.{name}')

    return [k for part in _list_parts(cfg) for k in walk(part, part.node, part.name)]


def _list_parts(cfg: Config) -> Iterator['_Part']:
    scope = cfg.get('default_scope') or 'mmengine'
    for name in RUNNER_KEYS:
        if isinstance(cfg.get(name), (dict, list, tuple)):
            yield _Part(name, cfg[name], scope)


class _Part:
    """One of the runner's keys with all that is inside.

    Args:
        name: Its key.
        node: Its value.
        scope: Where registries look for a name at first.
    """

    def __init__(self, name: str, node: Any, scope: str) -> None:
        self.name = name
        self.node = node
        self.scope = scope
        self.readers = {
            id(each): find_classes(each, scope) for each in _list_dicts(node)
        }

    @cached_property
    def words(self) -> tuple[frozenset[str], frozenset[str]]:
        """What the sources mention that the part reaches; of it, what is quoted."""
        made = [each for readers in self.readers.values() for each in readers]
        made += [each for each in PLACES.get(self.name, ()) if callable(each)]
        names = {*HELPERS, *(name for each in made for name in _list_modules(each))}
        pairs = [read_words(name) for name in sorted(names)]
        mentioned, quoted = zip(*pairs)
        return frozenset().union(*mentioned), frozenset().union(*quoted)

    @cached_property
    def packages(self) -> frozenset[str]:
        """All words of the packages that the part's classes are from."""
        made = [each for readers in self.readers.values() for each in readers]
        names = {
            *PACKAGES,
            *(name.partition('.')[0] for each in made for name in _list_modules(each)),
        }
        return frozenset().union(*map(read_package, sorted(names)))

    def is_foreign(self, node: dict[str, Any]) -> bool:
        """Whether a dict is for a class of a package that is not installed."""
        kind = node.get('type')
        if not isinstance(kind, str) or self.readers[id(node)]:
            return False
        name = kind.rpartition('.')[2]
        # What a few modules mention is in their packages, which take long to read.
        return name not in self.words[0] and name not in self.packages

    def check(
        self, node: Any, key: str, builders: tuple[str, ...] = (BUILDER,)
    ) -> Iterator[Unread]:
        """The unread keys of a value and of what is inside.

        Args:
            node: The value.
            key: Its key.
            builders: Modules of those who build it, and may take out what they quote.
        """
        if isinstance(node, (list, tuple)):
            for i, item in enumerate(node):
                yield from self.check(item, f'{key}.{i}', builders)
        elif isinstance(node, dict) and not self.is_foreign(node):
            made = self.readers[id(node)]
            builders += tuple(name for each in made for name in _list_modules(each))
            yield from self._check_names(node, key, builders)
            for name, value in node.items():
                yield from self.check(value, f'{key}.{name}', builders)

    def _check_names(
        self, node: dict[str, Any], key: str, builders: tuple[str, ...]
    ) -> Iterator[Unread]:
        """The unread ones of a dict's own keys."""
        made, place = self.readers[id(node)], PLACES.get(key, ())
        last = key.rpartition('.')[2]
        names = sorted({str(name) for name in node} - FRAMEWORK_KEYS)
        if last in FREE:
            for name in names:
                is_made = isinstance(node[name], dict) and 'type' in node[name]
                if FREE[last] and not (name in FREE[last] or is_made):
                    doubt = TAKEN_OUT if node[name] is None else LIKELY
                    problem = f'nothing reads {show(name)}'
                    yield Unread(f'{key}.{name}', problem, FREE[last], doubt)
        elif made or (place and 'type' not in node):
            place += ARGUMENTS.get(last, ())
            if self.name in ('custom_hooks', 'default_hooks'):
                place += ('priority',)  # of the runner, which it tells
            reads = [read_arguments(each) for each in (*made, *filter(callable, place))]
            known = {each for each in place if isinstance(each, str)}
            known.update(*(arguments.names for arguments in reads))
            closed = all(arguments.closed for arguments in reads)
            who = f'{_name(made[0])} has no argument' if made else f'{key} takes no'
            for name in names:
                if name not in known and not _is_quoted(name, builders):
                    yield Unread(
                        f'{key}.{name}',
                        f'{who} {show(name)}',
                        tuple(sorted(known)),
                        CERTAIN if closed else LIKELY,
                    )
        else:
            for name in names:
                mentioned, quoted = self.words
                for module in SPECIAL_HELPERS.get(last, ()):
                    mentioned |= read_words(module)[0]
                    quoted |= read_words(module)[0]
                if not (name in mentioned or name.isdigit()):
                    problem = f'nothing reads {show(name)}'
                    doubt = SLIGHT if name in self.packages else UNMENTIONED
                    yield Unread(f'{key}.{name}', problem, tuple(sorted(quoted)), doubt)


def _is_quoted(name: str, modules: Iterable[str]) -> bool:
    return any(name in read_words(module)[1] for module in modules)


def _list_dicts(node: Any) -> Iterator[dict[str, Any]]:
    """A value and what is inside, as far as they are dicts."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _list_dicts(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _list_dicts(item)


def find_classes(node: Mapping[str, Any], scope: str) -> list[Callable]:
    """What may be built from a dict: by its ``type``, its ``constructor`` and so on.

    Args:
        node: The dict.
        scope: Where registries look for a name at first.
    """
    scope = node.get('_scope_') or scope
    found = [
        *_look_up(node.get('type'), scope),
        *_look_up(node.get('constructor'), scope),
    ]
    for each in list(found):  # as EMAHook has an ema_type, to which it hands the rest
        for name, default in _list_types(each):
            found += _look_up(node.get(name, default), scope)
    return found


@cache
def _list_types(made: Callable) -> tuple[tuple[str, Any], ...]:
    """The arguments that name another type, and their defaults."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # of C
        return ()
    return tuple((e.name, e.default) for e in parameters if e.name.endswith('_type'))


def _look_up(kind: Any, scope: str) -> list[Callable]:
    """All that is registered under a name, in each kind of registry."""
    if not isinstance(kind, str):
        return [kind] if inspect.isclass(kind) or inspect.isfunction(kind) else []
    prefix, _, name = kind.rpartition('.')
    _import_scope(prefix or scope)
    found: list[Callable] = []
    for registry in _list_registries():
        made = registry.module_dict.get(name)
        in_scope = prefix in ('', registry.scope) or registry.parent is None
        if made is not None and in_scope and made not in found:
            found.append(made)
    return found


def _list_registries() -> Iterator[Registry]:
    todo = list(ROOTS)
    while todo:
        registry = todo.pop()
        yield registry
        todo.extend(registry.children.values())


@cache
def _import_scope(scope: str) -> None:
    """Has a package fill its registries, as its first name does that is looked up."""
    for registry in list(_list_registries()):
        if registry.scope == scope:
            with suppress(ImportError):
                registry.import_from_location()


class Arguments(NamedTuple):
    """What may be given to a class or function by name; whether that is all."""

    names: frozenset[str]
    closed: bool


@cache
def read_arguments(made: Callable) -> Arguments:
    """The arguments of a function, or of a class and those that it hands them on to."""
    if not inspect.isclass(made):
        names, rest = _read_signature(made)
        return Arguments(names, rest is None)
    inits = [vars(c)['__init__'] for c in made.__mro__[:-1] if '__init__' in vars(c)]
    signatures = [_read_signature(init) for init in inits]
    if not signatures or signatures[0][1] is None:
        names = signatures[0][0] if signatures else frozenset()
        return Arguments(names, bool(names))  # nothing is known of one without any
    closed = False
    for init, (_, rest) in zip(inits, signatures):
        closed = rest is None or init is nn.Module.__init__
        if rest is None or closed or not _hands_on(init, rest):
            break
    return Arguments(frozenset().union(*(names for names, _ in signatures)), closed)


def _read_signature(made: Callable) -> tuple[frozenset[str], str | None]:
    """The named arguments, and how the rest is called, if a rest is taken."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # of C
        return frozenset(), 'kwargs'
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(each.name for each in parameters if each.kind in named)
    names -= {'self'}
    for rest in parameters:
        if rest.kind is rest.VAR_KEYWORD:
            typed = get_args(rest.annotation)  # of Unpack[...], which lists them all
            listed = getattr(typed[0], '__annotations__', None) if typed else None
            return (names, rest.name) if listed is None else (names | {*listed}, None)
    return names, None


def _hands_on(init: Callable, rest: str) -> bool:
    """Whether all of a constructor's ``**kwargs`` go to that of the class above.

    What it does with single ones of them is another matter: their names are quoted.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, SyntaxError, TypeError):
        return False
    handed, single = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == '__init__':
            handed += [each.value for each in node.keywords if each.arg is None]
        if isinstance(node, ast.Attribute | ast.Subscript):
            single.append(node.value)
        elif isinstance(node, ast.Compare):
            single += node.comparators
    uses = {n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == rest}
    return bool(uses & {*handed}) and uses <= {*handed, *single}


def _list_modules(made: Callable) -> Iterator[str]:
    """The modules of a class and of those that it inherits from, or of a function."""
    for each in getattr(made, '__mro__', (made,)):
        module = getattr(each, '__module__', None) or ''
        if module.partition('.')[0] not in ('', 'builtins', 'torch', 'abc', 'typing'):
            yield module


@cache
def read_words(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names in a module's source, and those that are quoted or read as of a config.

    Of a package it is what its files hold.
    """
    file = getattr(sys.modules.get(module), '__file__', None)
    text = ''
    if file is not None:
        path = Path(file)
        files = path.parent.glob('*.py') if path.name == '__init__.py' else [path]
        with suppress(OSError):
            text = '\n'.join(
                each.read_text(encoding='utf-8', errors='replace') for each in files
            )
    read = re.findall(r"""['"]([A-Za-z_]\w*)['"]|_?cfg\.([a-z_]\w*)""", text)
    quoted = frozenset(name for pair in read for name in pair if name)
    return frozenset(re.findall(r'[^\W\d]\w*', text)), quoted


@cache
def read_package(package: str) -> frozenset[str]:
    """The names in the source of a package: of all its files, or what is imported."""
    file = getattr(sys.modules.get(package), '__file__', None)
    if file is None or Path(file).name != '__init__.py':
        return read_words(package)[0]
    names: set[str] = set()
    for path in Path(file).parent.rglob('*.py'):
        if '.mim' not in path.parts:
            with suppress(OSError):
                names.update(
                    re.findall(
                        r'[^\W\d]\w*',
                        path.read_text(encoding='utf-8', errors='replace'),
                    )
                )
    return frozenset(names)


def _name(made: Callable) -> str:
    return getattr(made, '__name__', str(made))
