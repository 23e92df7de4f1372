"""What stands for the classes and objects of a pickle whose code was not imported."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..utils.errors import UserError
from ..utils.messages import shorten, show

# What stands for a view with more numbers than are stored of it.
EXPANDED = 'an expanded view'
# Packages whose models are not YOLOv5's, though their files are called as YOLOv5's.
OTHERS = {
    'ultralytics.nn.': 'a model of Ultralytics from YOLOv8 on',
    'yolov6.models.': 'a YOLOv6 model',
    'yolox.models.': 'a YOLOX model',
    'super_gradients.': 'a model of SuperGradients',
}
# How files of Ultralytics' call the version, as in yolov8n.yaml and yolo11s-seg.pt.
VERSION = re.compile(r'yolo(v?[0-9]{1,2})[a-z]?(-[a-z]+)?\.(yaml|pt)', re.IGNORECASE)
MAX_MODULES = 100_000
MAX_MODULE_PATH = 1_000  # characters


@dataclass(eq=False, slots=True)
class Global:
    """A class or function that a pickle names.

    Args:
        source: Its full name.
        call: What is called in its place; ``None`` if it may not be called.
    """

    source: str
    call: Callable | None = None


@dataclass(eq=False, slots=True)
class Record:
    """An object of a class that was not imported: only what was stored of it.

    Args:
        source: Full name of its class.
        state: What ``__getstate__`` gave, as a rule the attributes in a dict. Where the
            object is a list, dict or set too, its items are left out.
    """

    source: str
    state: object = field(default=None, repr=False)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def attribute(self, name: str) -> Any:
        """The stored attribute of this name, or ``None``."""
        return self.state.get(name) if isinstance(self.state, dict) else None


def is_expanded(value: object) -> bool:
    """Whether it stands for a view with more numbers than are stored of it."""
    return isinstance(value, Record) and value.source == EXPANDED


def walk_modules(model: Record) -> Iterator[tuple[str, Record]]:
    """Yields the modules of a pickled torch module with their paths, itself first.

    As in a state dict, the paths end with a dot, and a module that is in two places
    comes twice.

    Raises:
        UserError: They are more, or deeper, than any model's: one may hold itself. Or
            the name of one is no text.
    """
    todo, count = [('', model)], 0
    while todo:
        path, module = todo.pop()
        yield path, module
        children = module.attribute('_modules')
        names = reversed(children) if isinstance(children, dict) else ()
        for name in names:
            if not isinstance(children[name], Record):
                continue
            if not isinstance(name, str):
                raise UserError(f'a module is called {show(name)}, which is no text')
            todo.append((f'{path}{name}.', children[name]))
        count += 1
        if count > MAX_MODULES or len(path) > MAX_MODULE_PATH:
            raise UserError(f'the modules of {shorten(model.source)} do not end')


def recognise_other(names: Iterable[str], texts: Iterable[object]) -> str | None:
    """Which model a pickle holds, if it is of those that are not read; else ``None``.

    Args:
        names: Of the classes that it names.
        texts: What else it holds; the texts may tell the version.
    """
    titles = (
        title
        for name in names
        for package, title in OTHERS.items()
        if name.startswith(package)
    )
    title = next(titles, None)
    if title != OTHERS['ultralytics.nn.']:
        return title
    versions = (VERSION.search(text) for text in texts if isinstance(text, str))
    version = next((match[1] for match in versions if match), None)
    return title if version is None else f'a YOLO{version.lower()} model'


def make_refusal(called: str) -> UserError:
    """The error for a file that would call something that is not on the list.

    Args:
        called: Full name of what it would call.
    """
    return UserError(
        f'refused: it would call {shorten(called)} when read, and a checkpoint may '
        'hold tensors and plain data only. Nothing in the file was run.'
    )
