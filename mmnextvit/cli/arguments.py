"""Arguments that commands share, and the config that they name."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..deploy.formats import holds_export, names_export
from ..recipes import RATE, read_size
from ..runs import find_run, find_run_checkpoint, find_run_config, is_first_process
from ..utils.errors import MissingFileError, UserError
from ..utils.files import check_new_file, is_folder, require_file
from ..utils.messages import escape

if TYPE_CHECKING:
    from mmengine.config import Config

    from ..runtime import Choices, Slicing


class Changes(Mapping[str, Any]):
    """The values of ``--cfg-options`` by key, as MMEngine reads them.

    It does so when the first value is asked for: to import it takes seconds.

    Args:
        words: Each is KEY=VALUE.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words = tuple(words)
        self._keys = dict.fromkeys(word.partition('=')[0] for word in words)

    @cached_property
    def _values(self) -> dict[str, Any]:
        from mmengine.config import DictAction

        read = argparse.Namespace(values={})
        DictAction((), 'values')(argparse.ArgumentParser(), read, self.words)
        return read.values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class ConfigOptions(argparse.Action):
    """Gathers the words of ``--cfg-options``, which may be there several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,  # a list, by nargs='+'
        option_string: str | None = None,
    ) -> None:
        for value in values or ():
            if '=' not in value:
                parser.error(f'{option_string}: {value!r} is not KEY=VALUE')
        before: Changes = getattr(namespace, self.dest)
        setattr(namespace, self.dest, Changes([*before.words, *(values or ())]))


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds ``config`` and ``--cfg-options``."""
    parser.add_argument('config', help="config file, or a run's folder")
    add_cfg_options(parser)


def add_detector(
    parser: argparse.ArgumentParser, what: str, export_alone: bool = False
) -> None:
    """Adds ``config``, ``checkpoint`` and ``--cfg-options``.

    Args:
        parser: The command's.
        what: What the checkpoint may be, for the help.
        export_alone: Whether an exported file needs no config. It is the checkpoint
            then, and ``config`` is ``None``.
    """
    alone = "a run's folder" + (' or an exported file' if export_alone else '')
    parser.add_argument(
        'config', help=f'config file; or {alone} alone, for it and the checkpoint'
    )
    parser.add_argument('checkpoint', nargs='?', help=f"{what}, or a run's folder")
    parser.set_defaults(checkpoint_needed=True, export_alone=export_alone)
    add_cfg_options(parser)


# How the names of weights end, beside those of exported files.
WEIGHT_SUFFIXES = ('.bin', '.ckpt', '.pkl', '.pt', '.pth', '.safetensors', '.tar')


def names_weights(name: str) -> bool:
    """Whether this names weights, not what is predicted on."""
    if name.startswith(('timm://', 'hf://')) or names_export(name):
        return True
    holds_weights = is_folder(name) and any(Path(name).glob('*.pth'))
    return holds_weights or Path(name).suffix.lower() in WEIGHT_SUFFIXES


# Arguments that name weights, in whose place the folder of a run may stand, and what
# messages call them.
WEIGHTS = {'checkpoint': '', 'src': '', 'weights': '--weights '}


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
    """A command's arguments, in which files stand for the folders of runs.

    ``config`` becomes the run's config, with ``run_folder`` beside it, and arguments of
    weights its best checkpoint, also where only ``config`` was given. Folders that were
    exported stay as they are. ``--resume`` looks for the last checkpoint itself.

    Raises:
        UserError: A folder is not that of a run.
        SystemExit: The arguments are not the command's.
    """
    # Options may stand between arguments, and one of these may be missing.
    args = parser.parse_intermixed_args(argv)
    given = vars(args)
    run = {}
    first, second = given.get('config') or '', given.get('checkpoint') or ''
    stands_alone = is_folder(first) or names_export(first)
    if given.get('input') and stands_alone and second and not names_weights(second):
        args.checkpoint, args.input = None, [second, *args.input]
    if given.get('export_alone') and not args.checkpoint and names_export(first):
        if args.cfg_options:
            parser.error(
                '--cfg-options changes a config, and an exported file alone has none'
            )
        args.config, args.checkpoint = None, args.config
    if is_folder(given.get('config')):
        run = _find_parts(given['config'], with_checkpoint='checkpoint' in given)
    for name, title in WEIGHTS.items():
        value = run.get(name) if given.get(name) is None else given[name]
        if is_folder(value) and not holds_export(value):
            value = _find_checkpoint(value, title)
        if name in given:
            run[name] = value
    args = argparse.Namespace(**{**given, **run})
    if given.get('checkpoint_needed') and args.checkpoint is None:
        parser.error(
            f'the following arguments are required: checkpoint ({args.config} is not '
            'the folder of a run, which would stand for both)'
        )
    return args


# What the first lines call what a command works on, as the summary of a run goes on.
TITLES = {
    'config': 'config',
    'checkpoint': 'weights',
    'input': 'images',
    'to': 'format',
}


def begin(args: argparse.Namespace) -> None:
    """Says what a command works on, before it imports what takes seconds.

    Of several processes the first one says so.

    Args:
        args: What was parsed.

    Raises:
        MissingFileError: The config or the checkpoint does not exist.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    if 'config' in given:  # an exported file needs none
        require_file(args.config, 'config')
    if 'checkpoint' in given and not is_folder(args.checkpoint):
        require_file(args.checkpoint, 'checkpoint')
    if is_first_process(given.get('launcher', 'none')):
        for name, title in TITLES.items():
            if name in given:
                print(f'{title:9} {escape(describe(given[name]))}', flush=True)


def describe(given: object) -> object:
    """What a command works on, as it is shown."""
    if not isinstance(given, list):
        return hide_password(given)
    more = f' and {len(given) - 1:,} more' if len(given) > 1 else ''
    return f'{hide_password(given[0])}{more}'


def hide_password(name: object) -> object:
    """What a command works on, without the password of an address."""
    if '://' not in str(name):
        return name
    from ..runtime import hide_secrets

    return hide_secrets(str(name))


def bind_print() -> Callable[[str], None]:
    """What prints a line to the output of now, also while that is redirected.

    Converters are silenced while another thread says how long they have taken.
    """
    return partial(print, flush=True, file=sys.stdout)


def _find_parts(folder: str, with_checkpoint: bool) -> dict[str, Any]:
    """What a run's folder stands for where a config is expected."""
    if not with_checkpoint:
        return dict(config=str(find_run_config(folder)), run_folder=Path(folder))
    run = find_run(folder)
    return dict(
        config=str(run.config), checkpoint=str(run.checkpoint), run_folder=run.folder
    )


def _find_checkpoint(folder: str, title: str) -> str:
    """The checkpoint of a run's folder.

    Args:
        folder: The folder.
        title: What the message begins with.

    Raises:
        MissingFileError: It is neither that nor an exported folder.
    """
    try:
        return str(find_run_checkpoint(folder))
    except MissingFileError as error:
        exported = f'{folder} is a folder with 0 .xml files and 0 .param files'
        problem = f'{title}{error}. Nor was it exported: {exported}'
        raise MissingFileError(problem) from error


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default=Changes(),
        metavar='KEY=VALUE',
        help='change the config, as in model.backbone.frozen_stages=1 data_root=x/ '
        'custom_hooks.0.momentum=0.1; +KEY=VALUE adds a key, whatever reads it',
    )


def add_run(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Adds ``--work-dir`` and ``--launcher``; returns the group of the folder."""
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument(
        '--work-dir', help='folder for logs and results (./work_dirs/<config>)'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    return folder


# The options of add_settings, by the keys of a config that they set.
SETTING_OPTIONS = {
    'image_size': 'imgsz',
    'max_epochs': 'epochs',
    'batch_size': 'batch',
    RATE: 'lr',
}
AUTO = 'auto'


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds ``--imgsz``, ``--epochs``, ``--batch`` and ``--lr``."""
    parser.add_argument(
        '--imgsz',
        type=to_image_size,
        metavar='N|WxH',
        help='image size in pixels, as in 640 or 640x480',
    )
    parser.add_argument('--epochs', type=to_count, metavar='N', help='passes over all')
    parser.add_argument(
        '--batch',
        type=to_batch,
        metavar='N|auto',
        help='images in a batch of each process; auto: as many as fit here',
    )
    parser.add_argument(
        '--lr', type=to_positive, metavar='RATE', help="the optimizer's learning rate"
    )


def read_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of :func:`add_settings` set, by keys of a config.

    ``--batch auto`` is none of them: it is to be found first.

    Raises:
        UserError: ``--cfg-options`` sets the same.
    """
    given = {key: getattr(args, option) for key, option in SETTING_OPTIONS.items()}
    for key in given.keys() & {*args.cfg_options}:
        if given[key] is not None:
            option = f'--{SETTING_OPTIONS[key]}'
            raise UserError(f'{option} and --cfg-options {key} say the same: give one')
    return {k: value for k, value in given.items() if value not in (None, AUTO)}


def to_image_size(text: str) -> tuple[int, int]:
    """Width and height in pixels, for argparse: of '640' or of '640x480'."""
    sides = text.split('x')
    try:
        numbers = [int(side) for side in sides]
    except ValueError as error:
        problem = f'{text!r} is no size in pixels, as in 640 or 640x480'
        raise argparse.ArgumentTypeError(problem) from error
    try:
        return read_size(numbers[0] if len(numbers) == 1 else numbers)
    except UserError as error:
        raise argparse.ArgumentTypeError(error.problem) from error


def to_count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    digits = text.isascii() and text.isdigit() and len(text) < 10
    if not (digits and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 on')
    return int(text)


def to_port(text: str) -> int:
    """The number of a port, 0 for any, for argparse."""
    digits = text.isascii() and text.isdigit() and len(text) < 10
    if not (digits and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f'{text!r} is not a port, 0 to 65535')
    return int(text)


def to_batch(text: str) -> int | str:
    """A batch size, or 'auto', for argparse."""
    if text == AUTO:
        return text
    try:
        return to_count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f'{error}, and not auto') from error


def to_positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def to_name(text: str) -> str:
    """The name of a folder, for argparse."""
    if text in ('', '.', '..') or not text.isprintable() or set(text) & set('/\\:'):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a plain name, as in run_2 (--work-dir takes a path)'
        )
    return text


def add_amp(parser: argparse.ArgumentParser) -> None:
    """Adds ``--amp`` and ``--force-amp``, one value: False, True or 'force'."""
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on a CPU that computes in it',
    )
    parser.add_argument(
        '--force-amp',
        action='store_const',
        const='force',
        dest='amp',
        help='the same on every CPU, though it may be slower than without',
    )


def check_new_config(path: str) -> Path:
    """The path of ``-o``, if a config may be written there.

    Raises:
        UserError: It may not.
        OSError: It cannot be written.
    """
    out = check_new_file(path)
    if out.suffix != '.py' or not out.stem.isidentifier() or iskeyword(out.stem):
        raise UserError(f'-o {out}: a config is called like my_config.py')
    return out


def add_threshold(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds ``--score-thr``."""
    parser.add_argument(
        '--score-thr',
        type=to_threshold,
        default=0.3,
        help=f"{help}, 0 to 1, or 'best': each class's own, with its highest F1 on the "
        'validation data (0.3)',
    )


def to_threshold(text: str) -> float | str:
    """A minimum score or 'best', for argparse."""
    return text if text == 'best' else to_share(text)


def add_slicing(parser: argparse.ArgumentParser) -> None:
    """Adds ``--slice`` and what goes with it, as in :mod:`mmnextvit.runtime.command`.

    The values are checked by :func:`read_slicing`.
    """
    add = parser.add_argument_group('large images').add_argument
    add(
        '--slice',
        type=int,
        metavar='SIZE',
        help='cut images larger than this into tiles of this height and width',
    )
    add(
        '--overlap',
        type=float,
        metavar='SHARE',
        help='what neighbours have in common, as a share of a tile (0.2)',
    )
    add(
        '--merge',
        choices=('ios', 'iou'),
        help='compare boxes of several tiles by the share of the smaller one (ios, the '
        'default) or by intersection over union',
    )
    add(
        '--merge-thr',
        type=float,
        dest='threshold',
        metavar='SHARE',
        help='from which on they are one object (0.5)',
    )
    add(
        '--tiles-only',
        action='store_false',
        default=None,
        dest='whole',
        help='leave the whole image out, in which larger objects are found',
    )


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds how sources are read and what is written, as in the runtime's command.

    The values are checked by :func:`read_choices`.
    """
    add = parser.add_argument_group('videos, webcams and streams').add_argument
    add(
        '--fps',
        type=float,
        metavar='RATE',
        help='look at so many frames a second, at most',
    )
    add(
        '--reconnect',
        type=int,
        metavar='N',
        default=5,
        help='tries in a row to connect again to a stream (5)',
    )
    add(
        '--track',
        action='store_true',
        help='give each object a number that it keeps from frame to frame',
    )
    add(
        '--save-video',
        action='store_true',
        help='draw streams, too, as a video, and keep what an interrupt leaves of one',
    )
    add = parser.add_argument_group('results').add_argument
    add('--no-draw', action='store_true', help='draw nothing')
    add(
        '--save-crops',
        action='store_true',
        help='write each object as an image of its own, under crops/<class>/',
    )
    add(
        '--batch',
        type=int,
        metavar='N',
        default=1,
        help='images or frames that go through the network at once (1)',
    )


def read_choices(args: argparse.Namespace) -> 'Choices':
    """How to read sources, of what :func:`add_sources` has had parsed.

    Raises:
        UserError: A value cannot be, or two contradict each other.
    """
    from ..runtime import OptionError, read_choices

    try:
        return read_choices(vars(args))
    except OptionError as error:
        raise UserError(str(error)) from error


def read_slicing(args: argparse.Namespace) -> 'Slicing | None':
    """How to cut images, of what :func:`add_slicing` has had parsed.

    Raises:
        UserError: A value cannot be, or is of no use without ``--slice``.
    """
    from ..runtime import OptionError, read_slicing

    try:
        return read_slicing(vars(args))
    except OptionError as error:
        raise UserError(str(error)) from error


def to_share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
    return value


def load_config(args: argparse.Namespace, settings: Mapping[str, Any] = {}) -> 'Config':
    """The config with the command line's changes.

    Args:
        args: What was parsed.
        settings: What :func:`read_settings` gave of it.

    Raises:
        UserError: As :func:`~mmnextvit.engine.configs.read_config`.
    """
    from ..engine.configs import read_config

    cfg = read_config(args.config, args.cfg_options, settings)
    if 'run_folder' in args:
        cfg.work_dir = str(args.run_folder)  # wherever it was when it was trained
        if cfg.get('resume') and not {'resume', 'load_from'} & args.cfg_options.keys():
            cfg.resume, cfg.load_from = False, None  # of a session that went on
    if 'launcher' in args:
        cfg.launcher = args.launcher
        name = Path(args.config).stem
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{name}'
    return cfg
