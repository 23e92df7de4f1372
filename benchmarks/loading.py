"""Time and memory of reading checkpoints: benchmarks/loading.py [--rounds N]

Writes a whole detector in three formats, small and large, and loads each with torch (or
safetensors) alone and with ours: the file to a state dict under our names, with its
hash and the receipt. Every load is a process of its own, the two in turn; the files are
in the page cache. Memory is what the process grows by at its peak. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.weights.layouts import to_timm, to_yolov5  # noqa: E402
from mmnextvit.weights.loading import adapt  # noqa: E402

import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402
from mmyolo.registry import MODELS  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.helpers.yolov5_pickle import write_yolov5_checkpoint, yolov5_on_the_path  # noqa: E402


def config(arch: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'yolov5_nextvit_{arch}.py')


def build(arch: str) -> torch.nn.Module:
    init_default_scope('mmyolo')
    return MODELS.build(config(arch).model)


def write(arch: str, folder: Path) -> list[Path]:
    state = build(arch).state_dict()
    files = [folder / f'{arch}.pth', folder / f'{arch}.safetensors']
    torch.save({'meta': {}, 'state_dict': state}, files[0])
    save_file(to_timm(state), files[1])
    yolov5 = folder / f'{arch}.pt'
    rows = config(arch).model.neck.rows
    types = ['NextViT', *(row[2] for row in rows), 'Detect']
    return [*files, write_yolov5_checkpoint(yolov5, to_yolov5(state), types)]


def load_alone(path: str) -> object:
    if path.endswith('.safetensors'):
        return load_file(path)
    with yolov5_on_the_path():
        return torch.load(path, 'cpu', weights_only=path.endswith('.pth'))


def load_ours(path: str, model: torch.nn.Module) -> object:
    content = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    str(adapt(content, model, path))
    return content


def memory(key: str) -> float:
    """MB of this process, by a key of Linux's ``/proc/self/status``."""
    lines = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(key)) / 1024


def measure(how: str, path: str) -> None:
    """Prints the seconds and the peak (MB) of one load, as JSON."""
    model = build(Path(path).stem)
    Path(path).read_bytes()
    Path('/proc/self/clear_refs').write_bytes(b'5')  # the peak from here on
    before, start = memory('VmRSS'), time.perf_counter()
    kept = load_alone(path) if how == 'alone' else load_ours(path, model)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, memory('VmHWM') - before]))
    del kept


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=5, help='loads of each type')
    p.add_argument('--measure', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    if args.measure:
        measure(*args.measure)
        return
    print(
        '| file | MB | alone, s | ours, s | ours - alone, s | alone, MB | ours, MB '
        '| ours / file |'
    )
    print('| --- ' * 8 + '|')
    with tempfile.TemporaryDirectory() as folder:
        for path in [*write('s', Path(folder)), *write('l', Path(folder))]:
            runs = {'alone': [], 'ours': []}
            for _ in range(args.rounds):
                for how, results in runs.items():
                    command = [sys.executable, __file__, '--measure', how, str(path)]
                    output = subprocess.check_output(command, text=True)
                    results.append(json.loads(output.splitlines()[-1]))
            size = path.stat().st_size / 2**20
            (alone, low), (ours, high) = (
                map(statistics.median, zip(*results)) for results in runs.values()
            )
            print(
                f'| {path.name} | {size:.0f} | {alone:.2f} | {ours:.2f} '
                f'| {ours - alone:+.2f} | {low:.0f} | {high:.0f} | {high / size:.2f} |',
                flush=True,
            )


if __name__ == '__main__':
    main()
