"""What is wanted of an exported file, and what is chosen where nothing is said."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from torch import nn

from ..datasets.images import BrokenImageError, read_image
from ..datasets.sources import IMG_EXTENSIONS, find_files
from ..engine.runner import build_dataset
from ..models.image_channels import count_image_channels
from ..utils.errors import MissingFileError, UserError, find_user_error
from .candidates import count_mask_channels
from .formats import FORMATS, check_format, require
from .metadata import read_input_size, round_up

MAX_COMPARED = 8  # images
MAX_CALIBRATION = 128  # images

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is wanted of an exported file.

    Args:
        to: A name of :data:`~mmnextvit.deploy.formats.FORMATS`.
        size: Height and width of the input, rounded up to multiples of 32; those of
            the config's test pipeline if ``None``.
        dynamic_size: Whether the file takes other sizes, too.
        batch: Images at a time, ``None`` for any number.
        precision: 'float32', 'half' or 'int8'.
        calibration: Images to calibrate int8 with: a folder or a pattern, or files.
        nms: Whether the file suppresses overlapping boxes itself, where its format can.
        efficient_nms: Whether TensorRT's plugin does, in place of ONNX's operator.
        images: Images to compare on: a folder or a pattern; some of the config's test
            data if ``None``.
        with_map: Whether mAP is measured of files that are not in float32.
        max_drop: By how much no mAP of an int8 file may fall: as few layers are left in
            float as that takes. ``None`` leaves none.
        max_minutes: How long these are looked for.
        onnxruntime_web: The package of that name for the format 'web', packed by npm or
            a folder; fetched by npm, once, if ``None``.
        overwrite: Whether what exists is replaced.
        out: File or folder to write; beside the checkpoint if ``None``.
    """

    to: str
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    batch: int | None = 1
    precision: str = 'float32'
    calibration: str | Sequence[str] | None = None
    nms: bool = True
    efficient_nms: bool = False
    images: str | None = None
    with_map: bool = True
    max_drop: float | None = None
    max_minutes: float = 60
    onnxruntime_web: str | Path | None = None
    overwrite: bool = False
    out: str | Path | None = None


def check_options(options: Options) -> None:
    """Refuses what a format does not have, before any work is done.

    Raises:
        UserError: The format does not have it.
        MissingPackageError: A library that the format needs is not installed.
    """
    wanted = FORMATS[check_format(options.to)]
    check_search(options)
    require(wanted.libraries, wanted.extra)
    able = [name for name, f in FORMATS.items() if f.dynamic]
    if not wanted.dynamic and (options.batch is None or options.dynamic_size):
        raise UserError(
            f'{options.to} has fixed sizes here: {", ".join(able)} can be dynamic'
        )
    if not wanted.batches and options.batch != 1:
        batch = options.batch or 'dynamic'
        raise UserError(
            f'batch {batch} (--batch): {options.to} takes one image at a time'
        )
    if options.onnxruntime_web is not None and options.to != 'web':
        raise UserError(
            f'onnxruntime_web (--onnxruntime-web) is for web only, not for {options.to}'
        )
    if options.efficient_nms and (options.to != 'tensorrt' or not options.nms):
        raise UserError(
            'efficient_nms (--efficient-nms) is for tensorrt, in files that have NMS '
            '(without --no-nms)'
        )
    if options.precision == 'int8':
        able = [name for name, f in FORMATS.items() if f.int8]
        if not wanted.int8:
            raise UserError(f'{options.to} has no int8 here: {", ".join(able)} have')
        if not options.calibration:
            raise UserError(
                'int8 needs images to calibrate with (--calib FOLDER): some hundred '
                'like those that it will see, such as training ones'
            )
        require(['nncf'], 'int8')
    elif options.calibration:
        raise UserError('images to calibrate with (--calib) are for int8 (--int8) only')


def check_search(options: Options) -> None:
    """Refuses a search for layers to leave in float that cannot be made.

    Raises:
        UserError: It cannot.
    """
    if options.max_drop is None:
        return
    if options.precision != 'int8':
        raise UserError('max_drop (--max-drop) is for int8 (--int8) only')
    if not options.with_map or options.efficient_nms:
        raise UserError(
            'max_drop (--max-drop) has mAP measured, which it is not with --no-map or '
            '--efficient-nms'
        )
    if not 0 <= options.max_drop <= 1:
        raise UserError(
            f'max_drop {options.max_drop:g} (--max-drop): it is a part of mAP, 0 to 1, '
            'such as 0.01'
        )
    if not options.max_minutes > 0:
        raise UserError(
            f'max_minutes {options.max_minutes:g} (--max-minutes): it must be positive'
        )


def check_detector(to: str, detector: nn.Module) -> None:
    """Refuses a detector that finds masks, or whose images are not in colour.

    Raises:
        UserError: The format has no place for them.
    """
    if (count := count_image_channels(detector)) not in FORMATS[to].channels:
        able = [name for name, f in FORMATS.items() if count in f.channels]
        raise UserError(
            f'{to} takes images of 3 channels here, and those of this detector have '
            f'{count}: {", ".join(able)} take them (--to)'
        )
    if count_mask_channels(detector) and not FORMATS[to].masks:
        able = [name for name, f in FORMATS.items() if f.masks]
        raise UserError(
            f'{to} has no masks here, and this detector finds some: '
            f'{", ".join(able)} have (--to)'
        )


def choose_path(checkpoint: str, options: Options) -> Path:
    """The path to write, which is free or may be replaced.

    Raises:
        UserError: It is not, or has another ending than the format's files.
    """
    wanted = FORMATS[options.to]
    suffix = wanted.suffix
    if options.precision != 'float32':
        suffix = f'_{options.precision}{suffix}'
    source = Path(checkpoint)
    if '://' in checkpoint:
        source = Path(source.name)  # in the current folder
    out = Path(options.out or source.with_name(source.stem + suffix)).expanduser()
    targets = [out, out.with_suffix('.engine')] if options.to == 'tensorrt' else [out]
    for path in targets:
        if path.exists() and not options.overwrite:
            raise UserError(
                f'{path} exists, and is replaced only to overwrite it (--force)'
            )
    if out.suffix != wanted.ending:
        must = 'be that of a folder, without a suffix'
        if wanted.ending:
            must = f'end in {wanted.ending}'
        raise UserError(f'out {out} (-o): the name must {must}')
    if out.is_symlink() or (out.exists() and out.is_dir() != wanted.is_folder):
        file_type = 'folder' if wanted.is_folder else 'file'
        raise UserError(
            f'{out} is no {file_type}, and is not replaced: choose another name'
        )
    if out.is_dir():
        ours = out.suffix == '.mlpackage' and (out / 'Manifest.json').is_file()
        others = sorted(list_others(out, wanted.files))
        if others and not ours:
            raise UserError(
                f'{out} is a folder with {others[0]}, which is not replaced: choose '
                'another name'
            )
    return out


def list_others(folder: Path, files: Iterable[str]) -> set[str]:
    """What lies in a folder, and in those in it, beside some files."""
    ours = {Path(file) for file in files}
    ours |= {parent for file in ours for parent in file.parents}
    there = {path.relative_to(folder) for path in folder.rglob('*')}
    return {path.as_posix() for path in there - ours}


def choose_size(cfg: Config, options: Options, say: Say) -> tuple[int, int]:
    """Height and width of the network's input.

    Raises:
        UserError: One is not positive, or the config's pipeline is not one that
            exported files follow.
    """
    size = options.size or read_input_size(cfg)
    rounded = round_up(size)
    if rounded != tuple(size):
        say(
            f'size {size[0]} {size[1]} (--imgsz) becomes {rounded[0]} {rounded[1]}: '
            'both must be multiples of 32'
        )
    return rounded


def choose_images(cfg: Config, options: Options) -> list[str]:
    """Some images to compare on, of the options or else of the config's test data.

    Raises:
        UserError: There is none.
    """
    if options.images:
        return take_evenly(find_images(options.images), MAX_COMPARED)
    try:
        images = list_images(cfg, 'test', MAX_COMPARED)
    except (OSError, UserError) as error:
        # Without what a registry put before it
        reason = find_user_error(error) or error
        raise UserError(
            'What is exported is compared with torch on real images, and the test '
            f'images cannot be read: {reason}. Name other images (--images FOLDER)',
            file=cfg.filename,
        ) from error
    if not images:
        raise UserError(
            'What is exported is compared with torch on real images, and the test '
            'data have none. Name other images (--images FOLDER)',
            file=cfg.filename,
        )
    return images


def list_images(cfg: Config, mode: str, max_images: int) -> list[str]:
    """Files of a config's images of a mode ('train', 'val', 'test'), evenly spread."""
    dataset = build_dataset(cfg, mode)
    chosen = take_evenly(range(len(dataset)), max_images)
    return [dataset.get_data_info(i)['img_path'] for i in chosen]


def find_images(source: str | Sequence[str]) -> list[str]:
    """Images that a folder or a pattern names; files are given back as they are.

    Raises:
        MissingFileError: There is none.
    """
    if not isinstance(source, str):
        return list(source)
    files = [p for p in find_files(source) if p.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise MissingFileError(f'{source} has no images ({", ".join(IMG_EXTENSIONS)})')
    return [str(p) for p in files]


def take_evenly(items: Sequence, max_items: int) -> list:
    """At most ``max_items`` of the items, evenly spread."""
    count = min(len(items), max_items)
    return [items[i * len(items) // count] for i in range(count)]


def read_images(
    paths: Iterable[str], say: Say, color_type: str = 'color'
) -> Iterator[np.ndarray]:
    """The images that can be read (H x W x 3, BGR, uint8; or as ``color_type`` has it).

    Args:
        paths: The files.
        say: Gets a line for each that cannot be read.
        color_type: As of :func:`~mmnextvit.datasets.images.load_image`.
    """
    for path in paths:
        try:
            yield read_image(path, color_type=color_type)
        except BrokenImageError as error:
            say(f'left out: {error}')
