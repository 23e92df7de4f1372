"""Which of MMDetection's detectors work with the ops that stand in for mmcv's.

Of every folder of MMDetection's configs it takes the cheapest config for each set of
mmcv's ops and layers that the folder's configs name. It builds the model, predicts on
two small random images, and computes a loss and its gradient. Weights are random, too.

    python benchmarks/mmdetection.py rows.json [FOLDER ...]

writes a row for each config: its folder, its name, the ops and layers, how large the
images were, and what came of it. Rows that are there already are not made anew.
docs/mmdetection.md was written from them.
"""

import json
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmnextvit  # noqa: F401  (puts the stand-ins in place)

import mmcv.ops
import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs, demo_mm_proposals
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
LARGE = re.compile(r'101|152|swin-[bl]|convnext-[bl]|[-_][mlx][-_]|b[1-7]|3\.2gf|64x4d')
SIZES = 128, 512  # in pixels; the larger one where a network needs it
TRIES = 3  # configs that may fail for other reasons than an op
SECONDS = 150  # for a config
SEMANTIC_STRIDES = dict(HybridTaskCascade=8, SCNet=8, PanopticFPN=4)


def walk(part: Any) -> Iterator[dict]:
    """All dicts in a config, the outer ones first."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list | tuple):
        for child in part:
            yield from walk(child)


def list_ops(model: Any) -> list[str]:
    """What a model's config names of `mmcv.ops`, layers and functions."""
    names = {d['type'] for d in walk(model) if isinstance(d.get('type'), str)}
    found = {n: getattr(mmcv.ops, n, None) or MODELS.get(n) for n in names}
    return sorted(
        name
        for name, item in found.items()
        if str(getattr(item, '__module__', '')).startswith('mmcv.ops')
    )


def choose(folder: Path) -> dict[tuple[str, ...], list[Path]]:
    """The cheapest configs of a folder for each set of ops, the cheapest first."""
    paths = sorted(folder.glob('*.py'), key=lambda p: len(p.name))
    chosen: dict[tuple[str, ...], list[Path]] = {}
    for path in sorted(paths, key=lambda p: len(LARGE.findall(p.name))):
        try:
            model = Config.fromfile(path).get('model')
        except Exception as error:
            print(f'{path.name}: {error}', file=sys.stderr)
            continue
        if model:
            chosen.setdefault(tuple(list_ops(model)), []).append(path)
    return {ops: paths[:TRIES] for ops, paths in chosen.items()}


def build(path: Path) -> Any:
    """The model of a config, with random weights and no file but the config."""
    model = Config.fromfile(path).model
    for part in walk(model):
        if (part.get('init_cfg') or {}).get('type') == 'Pretrained':
            part['init_cfg'] = None
        for key in {'teacher_ckpt', 'pretrained'} & part.keys():
            part[key] = None
        if isinstance(part.get('teacher_config'), str):
            part['teacher_config'] = str(CONFIGS.parent / part['teacher_config'])
    built = revert_sync_batchnorm(MODELS.build(model))
    built.init_weights()
    return getattr(built, 'student', built)  # semi-supervised


def make_data(model: Any, size: int) -> dict:
    """Two images with objects of class 0, their masks and semantic maps."""
    stride = SEMANTIC_STRIDES.get(type(model).__name__, 1)
    data = demo_mm_inputs(
        2,
        (3, size, size),
        with_mask=True,
        with_semantic=True,
        sem_seg_output_strides=stride,
    )
    proposals = demo_mm_proposals([(3, size, size)] * 2, 20)
    for sample, proposed in zip(data['data_samples'], proposals):
        sample.gt_instances.labels.zero_()
        sample.gt_sem_seg.sem_seg.zero_()
        sample.proposals = proposed
    return data


def predict_and_learn(model: Any, size: int) -> None:
    model.eval()
    data = model.data_preprocessor(make_data(model, size), False)
    with torch.no_grad():
        model(**data, mode='predict')
    model.train()
    data = model.data_preprocessor(make_data(model, size), True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()


def try_config(path: Path) -> dict:
    """What comes of a config: an empty text if it works, or else the error."""
    size, error = 0, ''
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    signal.alarm(SECONDS)
    try:
        model = build(path)
        for size in SIZES:
            try:
                predict_and_learn(model, size)
                error = ''
                break
            except NotImplementedError:
                raise
            except (RuntimeError, ValueError, AssertionError, IndexError) as found:
                error = f'{type(found).__name__}: {found}'
    except BaseException as found:
        if isinstance(found, KeyboardInterrupt):
            raise
        error = f'{type(found).__name__}: {found}'
    finally:
        signal.alarm(0)
    return dict(size=size, error=error[:300])


def main(out: Path, folders: list[str]) -> None:
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    register_all_modules()
    rows = json.loads(out.read_text(encoding='utf-8')) if out.exists() else []
    done = {(row['folder'], row['config']) for row in rows}
    for folder in sorted(CONFIGS.iterdir()):
        if folder.name == '_base_' or (folders and folder.name not in folders):
            continue
        for ops, paths in choose(folder).items():
            for path in paths:
                if (folder.name, path.stem) in done:
                    break
                start = time.monotonic()
                torch.manual_seed(0)
                row = dict(folder=folder.name, config=path.stem, ops=ops)
                row |= try_config(path)
                rows.append(row)
                seconds = round(time.monotonic() - start)
                print(folder.name, path.stem, *ops, f'{seconds} s', row['error'])
                out.write_text(json.dumps(rows, indent=1), encoding='utf-8')
                if not row['error'] or row['error'].startswith('NotImplementedError'):
                    break


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2:])
