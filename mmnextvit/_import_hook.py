"""Has :mod:`mmnextvit._register` imported before the first module that depends on it.

``import mmnextvit`` must come without torch, and yet everything must be registered when
it is looked up, whatever is imported in whatever order. So the first import of one of
OpenMMLab's packages, or of one of our rooms that register, imports `_register` first.
To other code it is as if ``import mmnextvit`` had registered everything: no import of
OpenMMLab's packages returns before that is done.

Until then there is one finder of ours in ``sys.meta_path``. It leaves with the first of
these imports.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmyolo')
# The rooms that `_register` imports modules of; it must not find one half imported.
ROOMS = ('models', 'datasets', 'weights', 'evaluation', 'visualization', 'engine')


def register_when_needed() -> None:
    """Registers everything before it can be looked up.

    That is at once where MMEngine has been imported already, as by a config that has
    ``custom_imports = dict(imports=['mmnextvit'])``.

    Without torch, only the deployment runtime works, and nothing is done.
    """
    if find_spec('torch') is None:
        return
    if 'mmengine' in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisterFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterFirst())


def register() -> None:
    """Imports `_register`, and torch and OpenMMLab's packages with it."""
    with _collector_resting():
        import_module('mmnextvit._register')


@contextmanager
def _collector_resting() -> Iterator[None]:
    """Has no garbage looked for in the block, nor later among what it imports.

    Imports make hundreds of thousands of objects, all of which stay. To look through
    them takes half a second, which MMEngine asks for with each data set, and which a
    process does when it ends. Where torch has been imported before, there may be large
    objects of a user's, and what is there by then stays subject to the collector.
    """
    was_on, fresh = gc.isenabled(), 'torch' not in sys.modules
    gc.disable()
    try:
        yield
        if fresh:
            gc.freeze()
    finally:
        if was_on:
            gc.enable()


class _RegisterFirst(MetaPathFinder, Loader):
    """Imports `_register` before the module that is imported.

    `_register` imports most of these modules itself. The module is therefore imported
    by the ordinary finders, after it, and handed on as it is.
    """

    names = frozenset({*OPENMMLAB, *(f'mmnextvit.{room}' for room in ROOMS)})

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The module's own spec, but with this loader: looking imports nothing."""
        if fullname not in self.names:
            return None
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    spec.loader = self
                    return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            register()
        except BaseException:
            sys.meta_path.insert(0, self)  # for the next try
            raise
        module = import_module(spec.name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module, which has been executed, its own spec back."""
        assert module.__spec__ is not None  # the import system has just set it
        module.__spec__ = module.__spec__.loader_state
