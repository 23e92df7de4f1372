"""Export: tools/export.py CONFIG CHECKPOINT --to FORMAT [--imgsz H W] [--batch N]
[--half] [--int8 --calib IMAGES] [--no-nms] [-o OUT]

Writes a file that finds objects without this package: normalisation, network, decoding
and non-maximum suppression. What it gives is compared with torch on real images; a
file that differs is not kept. In half precision or int8 it differs, and what that does
to mAP on the config's test data is reported.
"""

import argparse
import difflib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.apis import Predictor
from mmnextvit.cli.arguments import existing_file, load_config
from mmnextvit.datasets.images import BrokenImageError, read_image
from mmnextvit.datasets.sources import IMG_EXTENSIONS, find_files
from mmnextvit.deploy.candidates import (
    STRIDE,
    Candidates,
    check_head,
    config_size,
    metadata,
    resized,
    round_up,
)
from mmnextvit.deploy.exported import with_exported
from mmnextvit.deploy.formats import FORMATS, Job, require, trtexec_line
from mmnextvit.deploy.parity import Drift, batches, compare, compare_candidates
from mmnextvit.deploy.tensorrt import EngineDetector, build_engine
from mmnextvit.engine.runner import build_dataset, build_runner, parser, run
from mmnextvit.runtime import Detector

import numpy as np
from mmengine.config import Config
from mmengine.device import is_cuda_available
from torch import nn

COMPARED = 8  # images
CALIBRATED = 128  # images, at most


def format_name(name: str) -> str:
    if name not in FORMATS:
        near = difflib.get_close_matches(name.lower(), FORMATS, n=2, cutoff=0.4)
        meant = f' (did you mean {" or ".join(near)}?)' if near else ''
        raise argparse.ArgumentTypeError(
            f'there is no format {name!r}{meant}: {", ".join(FORMATS)}'
        )
    return name


def parse_args():
    p = parser('Export a detector, checked against torch.', launcher=False)
    p.add_argument('checkpoint', help='checkpoint file')
    p.add_argument('--to', required=True, type=format_name, help=', '.join(FORMATS))
    p.add_argument(
        '--imgsz',
        nargs='+',
        default=[],
        metavar=('H', 'W'),
        help="height and width, or 'dynamic' (the config's test pipeline's, fixed)",
    )
    p.add_argument('--batch', default='1', help="images at a time, or 'dynamic'")
    p.add_argument('--half', action='store_true', help='float16')
    p.add_argument('--int8', action='store_true', help='8 bits, calibrated by --calib')
    p.add_argument('--calib', help='images to calibrate with: folder or pattern')
    p.add_argument('--no-nms', action='store_true', help='give all candidates')
    p.add_argument(
        '--efficient-nms',
        action='store_true',
        help="TensorRT's plugin EfficientNMS in place of ONNX's operator",
    )
    p.add_argument('--images', help="images to compare on (the config's test images)")
    p.add_argument('--no-map', action='store_true', help="don't measure mAP")
    p.add_argument('--force', action='store_true', help='replace what exists')
    p.add_argument('-o', '--out', help='file or folder (beside the checkpoint)')
    args = p.parse_args()
    if args.half and args.int8:
        p.error('--half or --int8, not both')
    args.precision = 'half' if args.half else 'int8' if args.int8 else 'float32'
    return args


def wanted_size(args: argparse.Namespace, cfg: Config) -> tuple[int, int]:
    """Height and width of the network's input."""
    if args.imgsz in ([], ['dynamic']):
        size = config_size(cfg)
    elif len(args.imgsz) <= 2 and all(x.isdecimal() for x in args.imgsz):
        size = tuple(int(x) for x in (args.imgsz * 2)[:2])
    else:
        raise ValueError(
            f"--imgsz {' '.join(args.imgsz)}: write a height and a width, or 'dynamic'"
        )
    rounded = round_up(size)
    if rounded != tuple(size):
        print(
            f'--imgsz {size[0]} {size[1]} becomes {rounded[0]} {rounded[1]}: '
            'both must be multiples of 32'
        )
    return rounded


def wanted_batch(args: argparse.Namespace) -> int | None:
    """Images at a time, ``None`` for any number."""
    if args.batch == 'dynamic':
        return None
    if not args.batch.isdecimal() or int(args.batch) < 1:
        raise ValueError(f"--batch {args.batch}: write a number, or 'dynamic'")
    return int(args.batch)


def check_wishes(args: argparse.Namespace) -> None:
    """Refuses what a format does not have, before any work is done."""
    wanted = FORMATS[args.to]
    require(wanted.libraries, wanted.extra)
    able = [name for name, f in FORMATS.items() if f.dynamic]
    if not wanted.dynamic and 'dynamic' in (args.batch, *args.imgsz):
        raise ValueError(
            f'{args.to} has fixed sizes here: {", ".join(able)} can be dynamic'
        )
    if args.to == 'coreml' and args.batch != '1':
        raise ValueError(f'--batch {args.batch}: CoreML takes one image at a time')
    if args.efficient_nms and (args.to != 'tensorrt' or args.no_nms):
        raise ValueError('--efficient-nms is for --to tensorrt, without --no-nms')
    if args.int8:
        able = [name for name, f in FORMATS.items() if f.int8]
        if not wanted.int8:
            raise ValueError(f'{args.to} has no int8 here: {", ".join(able)} have')
        if not args.calib:
            raise ValueError(
                '--int8 needs images to calibrate with: --calib FOLDER, with some '
                'hundred images like those that it will see, such as training ones'
            )
        require(['nncf'], 'int8')


def output(args: argparse.Namespace) -> Path:
    """The path to write, which is free or may be replaced."""
    suffix = FORMATS[args.to].suffix
    if args.precision != 'float32':
        suffix = f'_{args.precision}{suffix}'
    checkpoint = Path(args.checkpoint)
    if '://' in args.checkpoint:
        checkpoint = Path(checkpoint.name)  # not where it comes from, but here
    out = Path(args.out or checkpoint.with_name(checkpoint.stem + suffix)).expanduser()
    written = [out, out.with_suffix('.engine')] if args.to == 'tensorrt' else [out]
    for path in written:
        if path.exists() and not args.force:
            raise ValueError(f'{path} exists, and is replaced with --force only')
    ending = Path(f'x{FORMATS[args.to].suffix}').suffix
    if out.suffix != ending:
        kind = f'end in {ending}' if ending else 'be that of a folder, without a suffix'
        raise ValueError(f'-o {out}: the name must {kind}')
    is_folder = ending in ('', '.mlpackage')
    if out.is_symlink() or (out.exists() and out.is_dir() != is_folder):
        kind = 'folder' if is_folder else 'file'
        raise ValueError(
            f'{out} is no {kind}, and is not replaced: choose another name'
        )
    if out.is_dir():
        ours = out.suffix == '.mlpackage' and (out / 'Manifest.json').is_file()
        others = sorted({p.name for p in out.iterdir()} - {'model.xml', 'model.bin'})
        if others and not ours:
            raise ValueError(
                f'{out} is a folder with {others[0]}, which is not replaced: choose '
                'another name'
            )
    return out


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A path to write to. If nothing goes wrong, what is written there takes the place
    of ``out``, and what is written beside it gets beside ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    before = folder / 'before'
    try:
        new = folder / 'new'
        new.mkdir()
        yield new / out.name
        for written in [*new.iterdir()]:
            target = out.with_name(written.name)
            if target.exists():  # a folder is not replaced by another
                os.replace(target, before)
            try:
                os.replace(written, target)
            except BaseException:
                if before.exists():
                    os.replace(before, target)
                raise
            if before.is_dir():
                shutil.rmtree(before)
    finally:
        shutil.rmtree(folder)


def images_to_compare(args: argparse.Namespace, cfg: Config) -> list[str]:
    """Some images, from --images or else the config's test data.

    Raises:
        ValueError: There is none.
    """
    if args.images:
        return spread(image_files(args.images), COMPARED)
    try:
        dataset = build_dataset(cfg, 'test')
        if not len(dataset):
            raise ValueError('there are none')
        chosen = spread(range(len(dataset)), COMPARED)
        return [dataset.get_data_info(i)['img_path'] for i in chosen]
    except (OSError, ValueError) as error:
        raise ValueError(
            'What is exported is compared with torch on real images, and the test '
            f'images of {args.config} cannot be read: {error}. Name others by '
            '--images FOLDER'
        ) from error


def image_files(source: str) -> list[str]:
    """Images that a folder or a pattern names.

    Raises:
        ValueError: There is none.
    """
    files = [p for p in find_files(source) if p.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise ValueError(f'{source} has no images ({", ".join(IMG_EXTENSIONS)})')
    return [str(p) for p in files]


def spread(items: Sequence, most: int) -> list:
    """At most ``most`` of the items, evenly spread."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]


def read_all(paths: Iterable[str]) -> Iterator[np.ndarray]:
    """The images that can be read."""
    for path in paths:
        try:
            yield read_image(path)
        except BrokenImageError as error:
            print(f'left out: {error}')


def mean_ap(cfg: Config) -> dict[str, float]:
    """mAP and mAP50 on a config's test data."""
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir, cfg.resume, cfg.launcher = folder, False, 'none'
        metrics = build_runner(cfg).test()
    return {
        name: value
        for name, value in metrics.items()
        if name.rpartition('/')[2].split('_')[-1] in ('mAP', '50')
    }


def report_map(cfg: Config, path: Path, checkpoint: str) -> None:
    """Prints mAP in torch and of the file."""
    try:
        build_dataset(cfg, 'test')
    except (OSError, ValueError) as error:
        print(f'mAP is not measured, without the test data of {cfg.filename}: {error}')
        return
    ours = mean_ap(with_exported(cfg, str(path)))
    cfg.load_from = checkpoint
    for name, theirs in mean_ap(cfg).items():
        change = ours[name] - theirs
        print(f'{name}: torch {theirs:.4f}, exported {ours[name]:.4f} ({change:+.4f})')


def compare_files(
    args: argparse.Namespace,
    path: Path,
    job: Job,
    torchs: tuple[nn.Module, Config],
    images: list[np.ndarray],
    drift: Drift,
) -> str:
    """Compares what was written as far as this machine runs it; says how far that is.

    Args:
        args: The command line.
        path: Exported file.
        job: What it was written of.
        torchs: The detector in torch, and its config with the file's size.
        images: H x W x 3, BGR, uint8.
        drift: Grows.
    """
    if not FORMATS[args.to].runs:
        return 'Converted, its specification checked; only Apple systems run it'

    def look(files: Iterable[Detector], cfg: Config) -> None:
        for file in files:
            print(f'Comparing {file.path.name} with torch ...', flush=True)
            compare(file, torchs[0], cfg, images, drift)

    files = [] if args.efficient_nms else [Detector(path)]
    if args.to == 'tensorrt' and find_spec('tensorrt') and is_cuda_available():
        engine = path.with_suffix('.engine')
        print(f'Building {engine.name} ...', flush=True)
        build_engine(path, engine, job.facts)
        files.append(EngineDetector(engine, job.facts))
    if not files:
        return "Compared with torch, the network without TensorRT's NMS"
    look(files, torchs[1])
    if job.facts['input']['dynamic_size'] and not args.efficient_nms:
        height, width = job.facts['input']['size']
        other = height + STRIDE, width + 2 * STRIDE
        look([Detector(path, imgsz=other)], resized(torchs[1], other))
    return 'Compared with torch'


def main():
    args = parse_args()
    check_wishes(args)
    cfg = load_config(args)
    existing_file(args.checkpoint, 'checkpoint')
    out, batch = output(args), wanted_batch(args)
    calibration = spread(image_files(args.calib), CALIBRATED) if args.int8 else []

    detector = Predictor(cfg, args.checkpoint, 'cpu').model
    check_head(detector)
    size = wanted_size(args, cfg)
    cfg = resized(cfg, size)
    paths = images_to_compare(args, cfg)
    facts = metadata(
        cfg,
        detector,
        detector.dataset_meta['classes'],
        size,
        batch=batch,
        dynamic_size=args.imgsz == ['dynamic'],
        precision=args.precision,
        nms_in_graph=not args.no_nms,
    )
    images = list(read_all(paths))
    if not images:
        raise ValueError('None of the images to compare on can be read')
    calibrating = list(batches(read_all(calibration), facts))
    if args.int8 and not calibrating:
        raise ValueError(f'--calib {args.calib}: none of the images can be read')
    # OpenVINO and CoreML make float16 of float32 themselves.
    in_half = args.half and args.to not in ('openvino', 'coreml')
    candidates = Candidates(detector, half=in_half)
    job = Job(candidates, facts, calibrating, args.efficient_nms)
    with scratch(out) as path:
        print(f'Writing {out.name} ...', flush=True)
        drift = Drift()
        network = FORMATS[args.to].write(job, path)
        if network:
            compare_candidates(network, detector, batches(images, facts), drift)
        del network
        compared = compare_files(args, path, job, (detector, cfg), images, drift)
        exact = args.precision == 'float32'
        faults = drift.faults() if exact else drift.not_finite()
        if faults:
            raise ValueError(
                f'{out} is not kept, since it differs from torch: {"; ".join(faults)}'
            )
    print(f'{out}: {args.to}, {args.precision}, {size[0]}x{size[1]}')
    if args.int8:
        print(f'Layers in float: {", ".join(job.float_layers) or "none"}')
    print(compared if not drift.largest else f'{compared}: {drift}')
    if args.to == 'tensorrt':
        print(f'Build an engine where TensorRT is: {trtexec_line(out, facts)}')
    if drift.images and not drift.found:
        print('Nothing was found in the images: take others by --images, to be sure')
    if not exact and drift.images and not args.no_map:
        report_map(cfg, out, args.checkpoint)


if __name__ == '__main__':
    run(main)
