"""Everything once, on small images: data, training, evaluation, a drawing."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from mmnextvit.datasets.demo_data import make_demo_data

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs' / 'yolov5_nextvit_s_demo.py'


def shown(path: str | Path) -> str:
    """A path as one would type it here."""
    path = Path(path).absolute()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def new_folder(path: Path) -> Path:
    """``path``, or ``path`` with the first number that makes it a new folder."""
    for number in range(1, 10_000):
        folder = path if number == 1 else path.with_name(f'{path.name}_{number}')
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f'{path} to {folder} exist all')


def call(tool: str, *args: str | Path) -> None:
    """Runs one of our tools as one would by hand."""
    words = [shown(w) if isinstance(w, Path) else w for w in (TOOLS / tool, *args)]
    print(f'\n$ {shlex.join([shown(sys.executable), *words])}\n', flush=True)
    # Threads that spin while they wait are many times slower on busy cores.
    env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    subprocess.run([sys.executable, *words], check=True, env=env)


def demo(out: Path, train: int, val: int, size: int, options: list[str]) -> Path:
    """Trains, evaluates and draws in a new folder.

    Args:
        out: Folder for the data and for the runs, kept apart from each other.
        train: Images to train on.
        val: Images to validate on.
        size: Their height and width in pixels.
        options: Changes of the config, as in ``--cfg-options``.

    Returns:
        The run's folder.
    """
    data = out / 'demo_data'
    make_demo_data(data, train=train, val=val, size=size, seed=0)
    run = new_folder(out / 'demo')
    options = ['--cfg-options', f'data_root={shown(data)}', *options]
    call('train.py', CONFIG, '--work-dir', run, *options)
    checkpoint = Path((run / 'last_checkpoint').read_text())
    test = run / 'test'
    call('test.py', CONFIG, checkpoint, '--work-dir', test, *options)

    metrics = json.loads(next(test.glob('*/*.json')).read_text())
    curves = next(run.glob('*/vis_data/scalars.json'))
    predict = [sys.executable, TOOLS / 'predict.py', CONFIG, checkpoint, data / 'val']
    print(f"""
mAP50 {metrics['coco/bbox_mAP_50']:.3f}, mAP {metrics['coco/bbox_mAP']:.3f}

predictions beside the truth  {shown(test / 'predictions.jpg')}
checkpoint                    {shown(checkpoint)}
log                           {shown(next(run.glob('*/*.log')))}
curves, a JSON object a line  {shown(curves)}

Next: {shlex.join(map(shown, predict))}""")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs'), help='folder for data and runs'
    )
    parser.add_argument('--train', type=int, default=600, help='images to train on')
    parser.add_argument('--val', type=int, default=100, help='images to validate on')
    parser.add_argument('--size', type=int, default=96, help='their height and width')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], dest='options', metavar='KEY=VALUE'
    )
    try:
        demo(**vars(parser.parse_args()))
    except ValueError as error:
        sys.exit(f'demo.py: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # it has said why


if __name__ == '__main__':
    main()
