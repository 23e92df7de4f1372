"""The stand-in ops against plain references, and mmcv in every state it can be in."""

import math
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import mmnextvit  # noqa: F401  (puts the stand-in in place)

import mmcv.ops
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.warm_python import run_python

ROOT = Path(__file__).parents[2]
DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
SAYS_STAND_IN = "mmnextvit uses torchvision's NMS and average RoIAlign"
SAYS_COMPILED = 'mmnextvit uses the compiled ops of mmcv'


# NMS


def plain_nms(boxes, scores, threshold, offset):
    """The boxes by falling score, less those that a better kept one overlaps."""
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        for j in kept:
            x1, y1 = np.maximum(boxes[i, :2], boxes[j, :2])
            x2, y2 = np.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)
            area_i, area_j = (
                (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
                for b in (boxes[i], boxes[j])
            )
            if inter / (area_i + area_j - inter) > threshold:
                break
        else:
            kept.append(int(i))
    return kept


def random_boxes(n, dtype, integer):
    rng = np.random.default_rng(n)
    corner, size = rng.uniform(0, 60, (n, 2)), rng.uniform(1, 40, (n, 2))
    boxes = torch.tensor(np.hstack([corner, corner + size]))
    boxes = boxes.round() if integer else boxes
    scores = torch.tensor(rng.permutation(n) / 256 + 0.1)  # distinct in bfloat16 too
    return boxes.to(dtype), scores.to(dtype)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.8])
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_nms_equals_plain_nms(dtype, threshold, offset, device):
    # Whole numbers are exact in every type, up to the bfloat16 range of 256.
    for integer in (True, False):
        boxes, scores = random_boxes(100, dtype, integer)
        want = plain_nms(
            boxes.double().numpy(), scores.double().numpy(), threshold, offset
        )
        dets, kept = mmcv.ops.nms(
            boxes.to(device), scores.to(device), threshold, offset=offset
        )
        assert 1 < len(want) < 100
        assert kept.tolist() == want
        assert dets.dtype == dtype and dets.device.type == device
        assert torch.equal(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[want])


@pytest.mark.parametrize('device', DEVICES)
def test_nms_offset(device):
    # Whole-pixel boxes: 36/81 of the larger without the offset, 50/100 with it.
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert mmcv.ops.nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, 0.45, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_an_overlap_of_just_the_threshold(tenths, dtype, device):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]]).to(device, dtype)
    scores = torch.tensor([0.9, 0.8]).to(device, dtype)
    assert mmcv.ops.nms(boxes, scores, tenths / 10)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, tenths / 10 - 1e-6)[1].tolist() == [0]


@pytest.mark.parametrize('device', DEVICES)
def test_nms_of_nothing_and_per_class(device):
    none = torch.zeros(0, 4, device=device)
    for offset in (0, 1):
        dets, kept = mmcv.ops.nms(none, none[:, 0], 0.5, offset=offset)
        assert dets.shape == (0, 5) and kept.shape == (0,)
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.7], device=device)
    classes = torch.tensor([0, 1, 0], device=device)
    cfg = dict(type='nms', iou_threshold=0.5)
    assert mmcv.ops.batched_nms(boxes, scores, classes, cfg)[1].tolist() == [1, 2]


# RoIAlign


def plain_roi_align_weights(roi, shape, out, scale, ratio, aligned):
    """How much each cell of the map counts in each bin: out out H W."""
    weights = np.zeros((out, out, *shape))
    x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in roi)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1), max(height, 1)
    rows = ratio or math.ceil(height / out)
    columns = ratio or math.ceil(width / out)
    for i, j, u, v in np.ndindex(out, out, rows, columns):
        y = y1 + height / out * (i + (u + 0.5) / rows)
        x = x1 + width / out * (j + (v + 0.5) / columns)
        if not (-1 <= y <= shape[0] and -1 <= x <= shape[1]):
            continue  # a sample outside the map counts as zero
        y, x = np.clip((y, x), 0, np.subtract(shape, 1))  # the border value beyond it
        top, left = int(y), int(x)
        for dy, dx in np.ndindex(2, 2):
            weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
            if weight > 0:
                weights[i, j, top + dy, left + dx] += weight / (rows * columns)
    return weights


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_equals_plain_roi_align(aligned, ratio, dtype, device):
    scale, out = 0.25, 3
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 2, 9, 11))).to(dtype)
    rois = torch.tensor(  # inside, over the edges, all of it, empty, far outside
        [
            [0, 4, 6, 30, 25],
            [1, -9, 20, 12, 44],
            [1, 0, 0, 44, 36],
            [0, 8, 8, 8, 8],
            [0, 200, 200, 240, 240],
        ]
    ).to(dtype)
    grad = torch.tensor(rng.normal(size=(len(rois), 2, out, out))).to(dtype)

    weights = np.stack(
        [
            plain_roi_align_weights(
                roi[1:].tolist(), (9, 11), out, scale, ratio, aligned
            )
            for roi in rois.double()
        ]
    )
    images = rois[:, 0].long().numpy()
    want = np.einsum('kijhw,kchw->kcij', weights, x.double().numpy()[images])
    want_grad = np.zeros(x.shape)
    parts = np.einsum('kijhw,kcij->kchw', weights, grad.double().numpy())
    np.add.at(want_grad, images, parts)

    x = x.to(device).requires_grad_()
    align = mmcv.ops.RoIAlign(out, scale, ratio, aligned=aligned)
    got = align(x, rois.to(device))
    got.backward(grad.to(device))
    tolerance = 8 * torch.finfo(dtype).eps
    assert got.dtype == x.grad.dtype == dtype
    for ours, reference in (got, want), (x.grad, want_grad):
        assert np.abs(reference).max() > 0.5
        ours = ours.detach().cpu().double().numpy()
        np.testing.assert_allclose(ours, reference, tolerance, tolerance)


def test_roi_align_of_nothing():
    x = torch.ones(1, 2, 8, 8, requires_grad=True)
    got = mmcv.ops.roi_align(x, torch.zeros(0, 5), (3, 3))
    got.sum().backward()
    assert got.shape == (0, 2, 3, 3) and not x.grad.any()


# All other ops


def calls_of_other_ops():
    boxes, scores, x = torch.rand(3, 4), torch.rand(3), torch.rand(1, 2, 8, 8)
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    return {
        'softnms': lambda: mmcv.ops.soft_nms(boxes, scores),
        'deform_conv_forward': lambda: mmcv.ops.DeformConv2d(2, 2, 1)(
            x, torch.zeros(1, 2, 8, 8)
        ),
        'roi_pool_forward': lambda: mmcv.ops.roi_pool(x, rois, (2, 2)),
        "roi_align_forward with pool_mode='max'": lambda: mmcv.ops.RoIAlign(
            2, pool_mode='max'
        )(x, rois),
    }


@pytest.mark.parametrize('name', calls_of_other_ops())
def test_other_ops_raise_when_called(name):
    with pytest.raises(NotImplementedError) as error:
        calls_of_other_ops()[name]()
    assert f"mmcv's op {name} needs compiled mmcv" in str(error.value)
    assert 'pip install --no-deps --no-build-isolation' in str(error.value)


@pytest.mark.filterwarnings('error:.*find_loader')
def test_what_looks_for_mmcvs_ops_needs_no_pkgutil(monkeypatch):
    """As on Python 3.14, where `pkgutil.find_loader` is gone; earlier ones warn."""
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.model import revert_sync_batchnorm
    from mmengine.utils.dl_utils import mmcv_full_available

    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    assert mmcv_full_available() and check_ops_exist()
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(4))
    assert type(revert_sync_batchnorm(model)[0]).__name__ == '_BatchNormXd'
    assert mmnextvit._mmcv._find_loader('mmcv._no_such_extension') is None


@pytest.mark.slow
def test_stand_in_is_an_ordinary_module():
    from mmcv.utils import collect_env
    from mmengine.utils.dl_utils import mmcv_full_available

    extension = sys.modules['mmcv._ext']
    assert extension.__spec__.loader is extension.__loader__
    assert not hasattr(extension, '__file__')  # what inspection asks of any module
    assert mmcv_full_available()  # mmcv.ops can be imported
    for key in ('MMCV Compiler', 'MMCV CUDA Compiler'):
        assert collect_env()[key] == 'n/a (mmnextvit._mmcv)'


# mmcv in other states, each in a fresh interpreter


def python(code, env=(), hide=(), warm=True):
    """Run `code` from the repository, as if the packages in `hide` were missing.

    Where it is not `warm`, nothing has been imported before.
    """
    hiding = f"""
import sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name in {hide!r} else super().find_spec(name, *args)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""
    command = sys.executable, '-c', hiding + code if hide else code
    env = {**os.environ, **dict(env)}
    if warm:
        return run_python(*command, cwd=ROOT, env=env)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def last_error(result):
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stderr.strip().splitlines()[-1]


def output(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_imports_without_torch():
    code = 'import sys, mmnextvit; print(mmnextvit.__version__, "mmcv" in sys.modules)'
    assert (
        output(python(code, hide=['torch'], warm=False))
        == f'{mmnextvit.__version__} False\n'
    )
    code = """
import mmnextvit
print(mmnextvit.__all__, hasattr(mmnextvit, 'NextViT'))
"""
    names = ['__version__', 'config_file', 'fit_recipe', 'get_config', 'get_model']
    names.append('tune_recipe')
    assert output(python(code, hide=['torch'], warm=False)) == f'{names} False\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('package', 'command'),
    [('mmcv', 'pip install "mmnextvit[all]"'), ('mmdet', 'pip install mmdet')],
)
def test_missing_package_is_named_with_its_command(package, command):
    for code in ('from mmnextvit import NextViT', 'import mmnextvit, mmengine'):
        error = last_error(python(code, hide=[package]))
        name = 'mmnextvit.utils.errors.MissingPackageError'
        assert error.startswith(f'{name}: mmnextvit needs {package}')
        assert command in error
    # As `pip install mmnextvit` leaves it, without an extra.
    everything = ['mmengine', 'mmcv', 'mmdet']
    error = last_error(python('from mmnextvit import NextViT', hide=everything))
    assert error.startswith(f'{name}: mmnextvit needs mmengine, mmcv and mmdet')
    code = 'from mmnextvit.cli import main; main(None, ["compute_anchors", "x.py"'
    error = last_error(python(f'{code}, "-o", "y.py"])', hide=everything))
    text = 'mmnextvit compute_anchors: mmnextvit needs mmengine, mmcv and mmdet'
    assert error.startswith(text) and 'pip install "mmnextvit[all]"' in error
    output(python(f'{code}, "--help"])', hide=[package]))
    error = last_error(python(f'{code}, "-o", "y.py"])', hide=[package]))
    assert error.startswith('mmnextvit compute_anchors: mmnextvit needs')
    assert command in error


@pytest.mark.slow
def test_backbone_works_without_mmyolo():
    code = """
import mmnextvit, torch
from mmdet.registry import MODELS
maps = MODELS.build(dict(type='mmdet.NextViT'))(torch.rand(1, 3, 64, 64))
print(*[tuple(m.shape[1:]) for m in maps], 'mmyolo' in sys.modules)
from mmnextvit import FittedYOLODetector
"""
    result = python(code, hide=['mmyolo'])
    assert 'this needs MMYOLO, which is not installed' in last_error(result)
    code = code.replace('from mmnextvit import FittedYOLODetector', '')
    shapes = '(96, 16, 16) (256, 8, 8) (512, 4, 4) (1024, 2, 2) False\n'
    assert output(python(code, hide=['mmyolo'])).endswith(shapes)


@pytest.mark.slow
def test_configs_that_inherit_from_mmyolo_name_its_command():
    command = 'pip install "mmnextvit[yolo]"'
    code = """
import mmnextvit
from mmnextvit.cli import main
from mmnextvit.utils.errors import MissingPackageError
try:
    mmnextvit.get_config('yolov5_nextvit_s')
except MissingPackageError as error:
    print(error)
main(None, ['get_flops', 'configs/yolov5_nextvit_s.py'])
"""
    result = python(code, hide=['mmyolo'])
    text = f'this needs MMYOLO, which is not installed. Install it with: {command}'
    config = 'configs/yolov5_nextvit_s.py'
    assert last_error(result) == f'mmnextvit get_flops: {config}: {text}'
    assert 'Traceback' not in result.stderr
    assert text in result.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize('package', ['torch', 'mmcv', 'mmdet', 'mmyolo'])
def test_broken_package_shows_its_own_error(package, tmp_path):
    (tmp_path / f'{package}.py').write_text('raise ImportError("no libfoo.so.1")')
    env = {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])}
    warm = package != 'torch'  # which has been imported there
    error = last_error(python('from mmnextvit import NextViT', env=env, warm=warm))
    assert error == 'ImportError: no libfoo.so.1'


@pytest.mark.slow
def test_missing_dependency_of_mmcv_shows_its_own_error():
    code = 'from mmnextvit import NextViT'
    error = last_error(python(code, hide=['cv2'], warm=False))
    assert error == "ModuleNotFoundError: No module named 'cv2'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ('version', 'refusing'),
    [('2.1.0', 'mmyolo'), ('2.2.0', 'mmdet and mmyolo'), ('2.3.6', 'mmdet and mmyolo')],
)
def test_newer_mmcv_is_accepted_with_one_warning(version, refusing):
    pretend = f'''
import mmcv, warnings
warnings.simplefilter("always", UserWarning)
mmcv.__version__ = "{version}"
'''
    assert 'is used but incompatible' in last_error(python(pretend + 'import mmyolo'))
    code = """
import mmnextvit, mmdet, mmyolo.models
from mmdet.registry import MODELS
print(mmcv.__version__, MODELS.get('mmyolo.YOLODetector'), MODELS.get('mmdet.NextViT'))
"""
    result = python(pretend + code)
    models = "<class 'mmyolo.models.detectors.yolo_detector.YOLODetector'> "
    models += "<class 'mmnextvit.models.nextvit.NextViT'>\n"
    assert output(result).endswith(f'{version} {models}')
    warnings = [line for line in result.stderr.splitlines() if 'UserWarning' in line]
    assert len(warnings) == 1, result.stderr
    assert f'mmcv {version} is newer than {refusing} allow' in warnings[0]


@pytest.mark.slow
def test_assertion_about_something_else_is_not_got_past(tmp_path):
    (tmp_path / 'mmyolo.py').write_text('assert False, "MMEngine is incompatible"')
    code = 'import mmcv; mmcv.__version__ = "2.1.0"; import mmnextvit'
    error = last_error(python(code, env={'PYTHONPATH': str(tmp_path)}))
    assert error == 'AssertionError: MMEngine is incompatible'


@pytest.mark.slow
def test_compiled_ops_are_left_alone(tmp_path):
    (tmp_path / '_ext.py').write_text('def __getattr__(name): return len\n')
    code = f"""
import sys, mmcv
mmcv.__path__.append({str(tmp_path)!r})
import mmnextvit, mmcv.ops
ours = [f for f in sys.meta_path if type(f).__module__.startswith('mmnextvit')]
print(mmcv._ext.__file__, mmcv._ext.nms, ours)
"""
    log, rest = output(python(code)).splitlines()
    assert SAYS_COMPILED in log and 'INFO' in log
    assert rest == f'{tmp_path}/_ext.py <built-in function len> []'


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'lines'), [('0', 1), ('1', 0)])
def test_one_info_line_per_run(rank, lines):
    result = python('import mmnextvit, mmyolo.models', env={'RANK': rank})
    said = [line for line in output(result).splitlines() if SAYS_STAND_IN in line]
    assert len(said) == lines
    assert all(' INFO ' in line for line in said)


# Registration, in any order of imports

LOOK_UP = """
import sys, mmnextvit
import mmdet.registry, mmyolo.registry
from mmengine import registry as root
assert mmdet.registry.MODELS.get('NextViT') is mmnextvit.NextViT
assert root.MODELS.get('mmdet.TimmFeatures') is mmnextvit.TimmFeatures
assert mmyolo.registry.MODELS.get('YOLOv5YAMLNeck') is mmnextvit.YOLOv5YAMLNeck
assert 'YOLOv5YAMLBackbone' in mmyolo.registry.MODELS.module_dict
assert 'FittedYOLODetector' in repr(mmyolo.registry.MODELS)
for registry in (root.HOOKS, root.OPTIM_WRAPPERS, root.OPTIM_WRAPPER_CONSTRUCTORS,
                 root.TRANSFORMS, root.METRICS, root.WEIGHT_INITIALIZERS,
                 mmyolo.registry.DATASETS):
    objects = registry.module_dict.values()
    assert any('mmnextvit' in c.__module__ for c in objects), registry.name
from mmengine.runner import CheckpointLoader
assert 'mmnextvit' in CheckpointLoader._get_checkpoint_loader('x.pth').__module__
import mmcv.ops, mmengine, mmdet, mmyolo, mmnextvit.models
for module in (mmengine, mmcv, mmdet, mmyolo, mmnextvit.models):
    assert module.__spec__.loader is module.__loader__
    assert module.__spec__.origin == module.__file__
assert not [f for f in sys.meta_path if type(f).__name__ == '_RegisterFirst']
import gc
assert gc.isenabled()
"""

# As if a newer mmcv were installed than MMDetection and MMYOLO allow.
NEWER_MMCV = """
import sys, types, mmnextvit
version = sys.modules['mmcv.version'] = types.ModuleType('mmcv.version')
version.__version__, version.__all__ = '2.2.0', ['__version__']
import mmyolo.models, mmcv
assert mmcv.__version__ == '2.2.0' and mmyolo.__version__ and mmyolo.mmdet.__version__
"""

FIRST_IMPORTS = [
    NEWER_MMCV,
    'import mmnextvit, mmengine',
    'import mmnextvit, mmcv',
    'import mmnextvit; from mmdet.registry import MODELS',
    'import mmnextvit; import mmyolo.models',
    'import mmnextvit; from mmnextvit import YOLOv5YAMLNeck',
    'import mmnextvit.models.yolov5_yaml',
    'import mmnextvit.datasets.checks',
    'import mmnextvit.engine.hooks',
    'import mmnextvit.weights.reader',
    'import mmnextvit.deploy.candidates',
    'import mmnextvit._register',
    'import mmdet.registry; import mmnextvit',
    'from mmengine.config import Config; Config.fromfile("CONFIG")',
]


@pytest.mark.slow
@pytest.mark.parametrize('first', FIRST_IMPORTS)
def test_everything_is_registered_when_it_is_looked_up(first, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmnextvit'])")
    output(python(first.replace('CONFIG', str(config)) + '\n' + LOOK_UP))


@pytest.mark.slow
def test_looking_for_a_package_imports_nothing():
    code = """
import sys, mmnextvit
from importlib.util import find_spec
specs = [find_spec(name) for name in ('mmengine', 'mmcv', 'mmdet', 'mmyolo')]
print(*[spec.name for spec in specs if spec.origin.endswith('__init__.py')])
print(sorted({'torch', 'mmengine', 'mmcv', 'mmdet', 'numpy'} & set(sys.modules)))
print('NextViT' in dir(mmnextvit) and 'NextViT' in mmnextvit.__all__)
"""
    assert output(python(code, warm=False)) == 'mmengine mmcv mmdet mmyolo\n[]\nTrue\n'


@pytest.mark.slow
def test_a_user_can_replace_what_is_registered():
    code = """
import mmnextvit
from mmdet.registry import MODELS
@MODELS.register_module(force=True)
class NextViT:
    pass
assert MODELS.get('NextViT') is NextViT is not mmnextvit.NextViT
"""
    output(python(code))


@pytest.mark.slow
def test_registration_is_tried_again_once_a_package_is_there():
    code = """
import gc, sys, mmnextvit
sys.modules['mmcv'] = None  # as if it were not installed
for _ in range(2):
    try:
        import mmengine
    except ImportError as error:
        print(error)
del sys.modules['mmcv']
assert gc.isenabled()
gc.disable()
import mmengine
assert not gc.isenabled()
print('NextViT' in sys.modules['mmdet.registry'].MODELS.module_dict)
"""
    said = output(python(code)).splitlines()
    assert [line.split(',')[0] for line in said if 'INFO' not in line] == [
        'mmnextvit needs mmcv',
        'mmnextvit needs mmcv',
        'True',
    ]


class KeptByNMS(torch.utils.data.Dataset):
    """Runs an op in the worker; unpickled there by its name in this module."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        return mmcv.ops.nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.5)[1]


@pytest.mark.slow
def test_spawned_data_loader_workers_have_the_ops(capfd):
    loader = DataLoader(KeptByNMS(), num_workers=1, multiprocessing_context='spawn')
    assert [kept.tolist() for kept in loader] == [[[1, 2]], [[1, 2]]]
    assert SAYS_STAND_IN not in capfd.readouterr().out
