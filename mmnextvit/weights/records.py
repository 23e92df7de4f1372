"""What stands for the classes and objects of a pickle whose code was not imported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..utils.errors import UserError
from ..utils.messages import shorten, show

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


def make_refusal(called: str) -> UserError:
    """The error for a file that would call something that is not on the list.

    Args:
        called: Full name of what it would call.
    """
    return UserError(
        f'refused: it would call {shorten(called)} when read, and a checkpoint may '
        'hold tensors and plain data only. Nothing in the file was run.'
    )
