"""Makes the installed mmcv usable: without compiled ops, and newer than allowed.

mmcv's compiled extension `mmcv._ext` has no wheels for current torch, and building
it takes a compiler and 10 to 30 minutes. YOLO models need one of its many ops, NMS;
`ops` has that one and those that most of MMDetection's detectors need. MMYOLO and
MMDetection also refuse newer mmcv by an assertion, though they work with it.
`prepare_mmcv` gets past both, and nothing else in the package knows of it. mmcv's NMS
then stops where enough is kept.
"""

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from multiprocessing import current_process
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import ops

ACCEPTED_MMCV = '2.0.1'  # the newest mmcv that MMDetection and MMYOLO both accept
LEAST = 1024  # boxes that NMS looks at first, if there are as many


def prepare_mmcv() -> None:
    """Make `mmcv.ops`, `mmdet` and `mmyolo` importable, and log which ops are used.

    Call it before anything that imports them. Compiled ops and versions that are
    accepted anyway are left alone. mmcv resizes to no less than a pixel then, and its
    NMS looks at no more boxes than it takes to keep as many as it is asked for.
    """
    import mmcv
    from mmengine.logging import print_log

    extension = find_spec('mmcv._ext')
    stands_in = extension is not None and isinstance(extension.loader, _StandIn)
    if extension is not None and not stands_in:
        used = f'the compiled ops of mmcv {mmcv.__version__}'
    else:
        if not stands_in:  # an earlier import may have failed after this
            sys.meta_path.append(_StandIn())
        used = (
            f"torchvision's NMS and average RoIAlign, since mmcv {mmcv.__version__} "
            'has no compiled ops here'
        )
    _look_for_ops_anew()
    _keep_a_pixel(mmcv)
    _suppress_prefixes()
    refused = _import_refusing(mmcv)

    # One word per run is enough: no echo from data-loader workers or other ranks.
    main = current_process().name == 'MainProcess'
    if main and os.environ.get('RANK', '0') == '0':
        print_log(f'mmnextvit uses {used}.', logger='current')
        if refused:
            warnings.warn(
                f'mmcv {mmcv.__version__} is newer than {" and ".join(refused)} allow. '
                'mmnextvit makes them accept it; should anything fail, install '
                f'mmcv {ACCEPTED_MMCV}, which they allow.',
                stacklevel=3,
            )


def _look_for_ops_anew() -> None:
    """Gives MMEngine and mmcv a stand-in for `pkgutil.find_loader`.

    Python 3.14 has it no longer, and earlier ones warn of it. MMEngine asks it for
    mmcv's compiled ops before each run of a single process. Only these modules see the
    stand-in: nothing of Python's own is changed.
    """
    for name in ('mmengine.utils.dl_utils.misc', 'mmcv.utils.ext_loader'):
        module: Any = importlib.import_module(name)
        if hasattr(module, 'pkgutil'):  # onedl-mmengine asks otherwise
            module.pkgutil = SimpleNamespace(find_loader=_find_loader)


def _find_loader(fullname: str) -> object | None:
    """What would load a module, or `None` if there is none."""
    spec = find_spec(fullname)
    return None if spec is None else spec.loader


def _keep_a_pixel(mmcv: Any) -> None:
    """Has mmcv resize no side of an image to less than a pixel.

    Scaled to 640 pixels, 30000 x 2 pixels would have no height. OpenCV fails there, and
    one odd image ends a run.
    """
    imresize = mmcv.imresize
    if hasattr(imresize, '__wrapped__'):
        return

    @functools.wraps(imresize)
    def resize(img: Any, size: tuple[int, int], *args: Any, **kwargs: Any) -> Any:
        width, height = size
        return imresize(img, (max(width, 1), max(height, 1)), *args, **kwargs)

    for module in (mmcv, mmcv.image, mmcv.image.geometric):
        module.imresize = resize


def _suppress_prefixes() -> None:
    """Has mmcv's `batched_nms` suppress no more boxes than `max_num` takes.

    Call it before MMDetection takes the function from mmcv.
    """
    package: Any = importlib.import_module('mmcv.ops')
    module: Any = importlib.import_module('mmcv.ops.nms')
    if not hasattr(module.batched_nms, '__wrapped__'):
        module.batched_nms = package.batched_nms = _by_prefix(module.batched_nms)


def _by_prefix(batched_nms: Callable) -> Callable:
    """mmcv's `batched_nms` that looks at the best boxes first.

    NMS goes by falling score, and what comes later decides nothing. So the first
    `max_num` that are kept of some of the best boxes are the first of all, and only
    where fewer are kept, more boxes are looked at. Results are the same to the bit;
    of equal scores the first comes first, where mmcv leaves that open.
    """

    @functools.wraps(batched_nms)
    def suppress(
        boxes: Tensor,
        scores: Tensor,
        idxs: Tensor,
        nms_cfg: dict | None,
        class_agnostic: bool = False,
    ) -> tuple[Tensor, Tensor]:
        options, total = dict(nms_cfg or {}), len(boxes)
        limit = options.pop('max_num', -1)
        is_plain = options.get('type', 'nms') == 'nms' and boxes.shape[-1] == 4
        if limit < 1 or total == 0 or not is_plain:
            return batched_nms(boxes, scores, idxs, nms_cfg, class_agnostic)

        # Whatever mmcv makes of all boxes must be made of all of them here, too: where
        # each class is put, to the last bit, and whether classes are gone through.
        placed = boxes
        if not options.get('class_agnostic', class_agnostic):
            placed = boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
        by_class = total >= options.get('split_thr', 10000)
        options |= {'class_agnostic': True, 'split_thr': 0 if by_class else total + 1}
        order = kept = scores.argsort(descending=True, stable=True)
        count = max(4 * limit, LEAST)
        while True:
            best = order[:count]
            _, kept = batched_nms(placed[best], scores[best], idxs[best], options)
            kept = best[kept.sort().values[:limit]]
            if len(kept) == limit or count >= total:
                break
            # torchvision's NMS takes time with those kept times those looked at: a
            # trained detector often has enough in twice as many, and where next to
            # nothing is kept, all are soon looked through.
            count = max(2 * count, count * limit // (2 * len(kept) + 1))
        return torch.cat([boxes[kept], scores[kept, None]], -1), kept

    return suppress


def _import_refusing(mmcv: Any) -> list[str]:
    """Import the packages that assert an upper bound on mmcv; return those it hit.

    Only their `__init__` looks at the version, so an accepted one is shown for
    just that long.
    """
    from mmengine.utils import digit_version

    refused: list[str] = []
    version = mmcv.__version__
    if digit_version(version) <= digit_version(ACCEPTED_MMCV):
        return refused
    for package in filter(find_spec, ('mmdet', 'mmyolo')):
        try:
            importlib.import_module(package)
        except AssertionError:
            mmcv.__version__ = ACCEPTED_MMCV
            try:
                importlib.import_module(package)
            finally:
                mmcv.__version__ = version
            refused.append(package)
    return refused


class _StandIn(MetaPathFinder, Loader):
    """Finds and loads a `mmcv._ext` whose every op can be imported.

    It comes last in `sys.meta_path`, so a compiled module always wins.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != 'mmcv._ext':
            return None
        return spec_from_loader(fullname, self, origin=__name__)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(
            {op.__name__: op for op in ops.OPS},
            # Environment reports, such as the Runner's, print these two.
            get_compiler_version=lambda: f'n/a ({__name__})',
            get_compiling_cuda_version=lambda: f'n/a ({__name__})',
            __getattr__=_make_missing_op,
        )


def _make_missing_op(name: str) -> Callable[..., NoReturn]:
    if name.startswith('_'):  # asked by the import system and inspection, not by mmcv
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def op(*args: object, **kwargs: object) -> NoReturn:
        ops.refuse(name)

    return op
