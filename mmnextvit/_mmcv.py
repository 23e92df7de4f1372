"""Makes the installed mmcv usable: without compiled ops, and newer than allowed.

mmcv's compiled extension `mmcv._ext` has no wheels for current torch, and building
it takes a compiler and 10 to 30 minutes. YOLO models need one of its many ops, NMS,
and torchvision has that op and RoIAlign. MMYOLO and MMDetection also refuse newer
mmcv by an assertion, though they work with it. `prepare_mmcv` gets past both, and
nothing else in the package knows of it.
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
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

ACCEPTED_MMCV = '2.0.1'  # the newest mmcv that MMDetection and MMYOLO both accept


def prepare_mmcv() -> None:
    """Make `mmcv.ops`, `mmdet` and `mmyolo` importable, and log which ops are used.

    Call it before anything that imports them. Compiled ops and versions that are
    accepted anyway are left alone. mmcv resizes to no less than a pixel then.
    """
    import mmcv
    from mmengine.logging import print_log

    extension = find_spec('mmcv._ext')
    stands_in = extension is not None and isinstance(extension.loader, _StandIn)
    if extension is not None and not stands_in:
        ops = f'the compiled ops of mmcv {mmcv.__version__}'
    else:
        if not stands_in:  # an earlier import may have failed after this
            sys.meta_path.append(_StandIn())
        ops = (
            f"torchvision's NMS and average RoIAlign, since mmcv {mmcv.__version__} "
            'has no compiled ops here'
        )
    _keep_a_pixel(mmcv)
    refused = _import_refusing(mmcv)

    # One word per run is enough: no echo from data-loader workers or other ranks.
    main = current_process().name == 'MainProcess'
    if main and os.environ.get('RANK', '0') == '0':
        print_log(f'mmnextvit uses {ops}.', logger='current')
        if refused:
            warnings.warn(
                f'mmcv {mmcv.__version__} is newer than {" and ".join(refused)} allow. '
                'mmnextvit makes them accept it; should anything fail, install '
                f'mmcv {ACCEPTED_MMCV}, which they allow.',
                stacklevel=3,
            )


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
            nms=_nms,
            roi_align_forward=_roi_align_forward,
            roi_align_backward=_roi_align_backward,
            # Environment reports, such as the Runner's, print these two.
            get_compiler_version=lambda: f'n/a ({__name__})',
            get_compiling_cuda_version=lambda: f'n/a ({__name__})',
            __getattr__=_make_missing_op,
        )


def _make_missing_op(name: str) -> Callable[..., NoReturn]:
    if name.startswith('_'):  # asked by the import system and inspection, not by mmcv
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def op(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's op {name} needs compiled mmcv, which is not installed: mmnextvit "
            'has only NMS and average RoIAlign without it. To compile mmcv (10 to 30 '
            'minutes, with a C++ compiler, and nvcc for the GPU): pip uninstall '
            'mmcv-lite; pip install --no-deps --no-build-isolation onedl-mmcv'
        )

    return op


def _nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that NMS keeps, by falling score.

    Args:
        bboxes: N 4, (x1, y1, x2, y2).
        scores: N.
        iou_threshold: boxes that overlap a better one by more than this are dropped.
        offset: 0, or 1 if a box from x1 to x2 is x2 - x1 + 1 wide.
    """
    from torchvision.ops import nms

    bboxes, scores = _widen_to_float(bboxes), _widen_to_float(scores)
    if offset:
        bboxes = bboxes + bboxes.new_tensor([0, 0, offset, offset])
    # As exact as the overlaps, or an overlap of just the threshold may exceed it.
    threshold = bboxes.new_tensor(iou_threshold, device='cpu').item()
    return nms(bboxes, scores.to(bboxes.dtype), threshold)


def _roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output`, K C aligned_height aligned_width, from `input`, B C H W.

    Args:
        rois: K 5, (index into B, x1, y1, x2, y2) in units of 1 / spatial_scale.
        argmax_y: unused, for `pool_mode` 0 (max), which raises.
        argmax_x: the same.
        sampling_ratio: samples per bin and axis; 0 for one per map cell.
        pool_mode: 1 (average).
        aligned: whether cell centres lie at 0.5.
    """
    from torchvision.ops import roi_align

    if pool_mode != 1:
        _make_missing_op("roi_align_forward with pool_mode='max'")()
    output.copy_(
        roi_align(
            _widen_to_float(input),
            _widen_to_float(rois).to(_widen_to_float(input).dtype),
            (aligned_height, aligned_width),
            spatial_scale,
            sampling_ratio,
            aligned,
        )
    )


def _roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to `grad_input`, B C H W, the gradient of `_roi_align_forward`."""
    import torchvision  # noqa: F401  (defines the op)

    if pool_mode != 1:
        _make_missing_op("roi_align_backward with pool_mode='max'")()
    grad_output = _widen_to_float(grad_output)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


def _widen_to_float(x: Tensor) -> Tensor:
    """`x`, in float32 if it is narrower: torchvision's CPU ops have no half."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
