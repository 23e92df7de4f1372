"""Uses a wheel of this repository as somebody who installs it does.

    make try PYTHON=/path/to/python3.14 [OPENMMLAB=onedl] [ARGS=--uv]

It makes a fresh environment, installs ``mmnextvit[all]`` with the newest releases that
our bounds allow, and there imports, trains a few iterations, evaluates, predicts,
exports to ONNX and runs the exported file in an environment that has neither torch nor
OpenMMLab's packages. What it prints is a row of docs/versions.md. It needs nothing
but Python's own library and a package index; with ``--uv`` also uv, which links
packages from its cache. Exit code 1 where a step failed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {'official-lite': 'all,onnx', 'onedl': 'onedl'}
NAMED = (
    'torch torchvision numpy opencv-python opencv-python-headless pillow timm '
    'setuptools mmengine mmcv-lite mmdet mmyolo onedl-mmengine onedl-mmcv '
    'onedl-mmdetection onnxruntime'
)
# MMDetection's RetinaNet on the demo's images: what the set without MMYOLO can train.
RETINANET = """
_base_ = __import__('mmnextvit').config_file('retinanet_nextvit_s_fpn_1x_coco')
load = dict(type='LoadImageFromFile')
boxes = dict(type='LoadAnnotations', with_bbox=True)
resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
train_pipeline = [load, boxes, resize, dict(type='PackDetInputs')]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pipeline = [load, resize, boxes, dict(type='PackDetInputs', meta_keys=keys)]
data = dict(
    data_root='data/', metainfo=dict(classes=('circle', 'square', 'triangle'))
)
train = dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'))
val = dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'))
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4, dataset=dict(**data, **train, pipeline=train_pipeline), **loader
)
val_dataloader = test_dataloader = dict(
    dataset=dict(**data, **val, pipeline=test_pipeline), **loader
)
val_evaluator = test_evaluator = dict(ann_file='data/annotations/val.json')
arch = dict(
    depths=(1, 1, 5, 1),
    stem_channels=(8, 8, 16),
    ncb_channels=(32, 64, 64, 96),
    stage_channels=(32, 64, 128, 128),
)
backbone = dict(arch=arch, init_cfg=None, frozen_stages=-1, norm_eval=False)
neck = dict(in_channels=[32, 64, 128, 128])
model = dict(backbone=backbone, neck=neck, bbox_head=dict(num_classes=3))
train_cfg = dict(max_epochs=1)
"""


class Environment:
    """A fresh environment of a Python.

    Args:
        folder: Where it is made.
        uv: Whether uv makes it, with links to its cache, or venv and pip.
        log: What commands print.
    """

    def __init__(self, folder: Path, uv: bool, log: Path) -> None:
        self.python = folder / 'bin' / 'python'
        self.log = log
        if uv:
            self.pip = ['uv', 'pip']
            self.where = ['--python', str(self.python)]
            self.run('uv', 'venv', '--python', sys.executable, folder)
        else:
            self.pip, self.where = [str(self.python), '-m', 'pip'], []
            self.run(sys.executable, '-m', 'venv', folder)

    def run(self, *command: object, cwd: Path | None = None) -> str:
        """Runs a command without this repository in its path; what it printed.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        text = list(map(str, command))
        done = subprocess.run(
            text, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with self.log.open('a', encoding='utf-8') as file:
            file.write(f'$ {" ".join(text)}\n{done.stdout}\n')
        done.check_returncode()
        return done.stdout

    def install(self, *what: object) -> None:
        self.run(*self.pip, 'install', *self.where, *what)

    def mmnextvit(self, *arguments: object, cwd: Path) -> str:
        return self.run(self.python.with_name('mmnextvit'), *arguments, cwd=cwd)


def list_steps(
    openmmlab: str, uv: bool, folder: Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is tried, each step with its name, in the order of a user's day.

    Args:
        openmmlab: The set of OpenMMLab's packages, of :data:`EXTRAS`.
        uv: Whether uv makes environments.
        folder: An empty one for all that is made.
    """
    log = ROOT / 'work_dirs' / 'try.log'
    log.parent.mkdir(exist_ok=True)
    log.write_text('', encoding='utf-8')
    full = Environment(folder / 'env', uv, log)
    build = folder / 'build'
    build.mkdir()

    def make_wheel() -> None:
        wheel = [*full.pip, 'wheel', '-q', '--no-deps', '-w']
        full.run(*(['uv', 'build', '--wheel', '-o'] if uv else wheel), build, ROOT)

    def find_wheel() -> Path:
        return next(build.glob('*.whl'))

    yield 'wheel', make_wheel

    def install() -> None:
        wheel = find_wheel().as_uri()
        full.install(f'mmnextvit[{EXTRAS[openmmlab]}] @ {wheel}')

    yield 'install', install
    yield 'check', lambda: full.run(*full.pip, 'check', *full.where)
    yield (
        'import',
        lambda: full.run(full.python, '-c', 'import mmnextvit as m; m.NextViT()'),
    )
    small = '--train', 16, '--val', 4, '--size', 64
    yield (
        'data',
        lambda: full.mmnextvit('make_demo_data', '--out', 'data', *small, cwd=folder),
    )
    (folder / 'mine.py').write_text(RETINANET, encoding='utf-8')
    yield 'train RetinaNet', lambda: full.mmnextvit('train', 'mine.py', cwd=folder)
    yield (
        'test RetinaNet',
        lambda: full.mmnextvit('test', 'work_dirs/mine', cwd=folder),
    )
    yield (
        'predict with it',
        lambda: full.mmnextvit('predict', 'work_dirs/mine', 'data/val', cwd=folder),
    )
    if openmmlab == 'onedl':
        return
    epoch = '--cfg-options', 'train_cfg.max_epochs=1'
    yield 'demo', lambda: full.mmnextvit('demo', *small, *epoch, cwd=folder)

    def export() -> None:
        to = '--to', 'onnx', '-o', folder / 'demo.onnx'
        full.mmnextvit('export', 'work_dirs/demo', *to, cwd=folder)

    yield 'export', export
    bare = Environment(folder / 'bare', uv, log)

    def use_runtime() -> None:
        bare.install('--no-deps', find_wheel())
        bare.install('numpy', 'opencv-python-headless', 'onnxruntime')
        image = next((folder / 'work_dirs' / 'demo_data' / 'val').iterdir())
        runtime = '-m', 'mmnextvit.runtime', folder / 'demo.onnx', image
        bare.run(bare.python, *runtime, cwd=folder)

    yield 'runtime', use_runtime


def list_versions(python: Path) -> str:
    """The versions of what matters that an environment has."""
    code = f"""
from importlib.metadata import version, PackageNotFoundError
for name in {NAMED.split()}:
    try:
        print(name, version(name), end=', ')
    except PackageNotFoundError:
        pass
"""
    done = subprocess.run([python, '-c', code], capture_output=True, text=True)
    return done.stdout.strip().rstrip(',')


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--openmmlab', choices=EXTRAS, default='official-lite')
    parser.add_argument(
        '--uv',
        action='store_true',
        help='make environments with uv, which must be there',
    )
    args = parser.parse_args()
    done, failed = [], ''
    with tempfile.TemporaryDirectory(prefix='mmnextvit-try-') as name:
        folder = Path(name)
        for step, run in list_steps(args.openmmlab, args.uv, folder):
            begun = time.monotonic()
            try:
                run()
            except (subprocess.CalledProcessError, OSError, ValueError) as error:
                failed = f'{step}: {error}'
                print(f'{step}: FAILED: {error}; see work_dirs/try.log', flush=True)
                break
            print(f'{step}: {time.monotonic() - begun:.0f} s', flush=True)
            done.append(step)
        versions = list_versions(folder / 'env' / 'bin' / 'python')
    python = '.'.join(map(str, sys.version_info[:3]))
    row = python, args.openmmlab, ', '.join(done), failed or 'nothing failed', versions
    print('|', ' | '.join([*row, date.today().isoformat()]), '|')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
