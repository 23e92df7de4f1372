"""Damaged image files for the reader: each gives an image or one message.

Run in full with ``.venv/bin/python -m tests.helpers.fuzz_images``. The images are read
in a process of their own, so that a crash or a hang is seen, and named.
"""

import argparse
import io
import multiprocessing
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mmnextvit.datasets.images import BrokenImageError, load_image

import numpy as np
from PIL import Image
from rich.progress import track

SIZE = 64, 48
TIMEOUT = 30  # seconds for one small image

# How Pillow is to write the images: mode, format and options.
KINDS: dict[str, tuple[str, str, dict]] = {
    'jpeg': ('RGB', 'JPEG', {}),
    'jpeg progressive': ('RGB', 'JPEG', dict(progressive=True)),
    'jpeg restarts': ('RGB', 'JPEG', dict(restart_marker_blocks=2)),
    'jpeg grey': ('L', 'JPEG', {}),
    'jpeg cmyk': ('CMYK', 'JPEG', {}),
    'jpeg exif': ('RGB', 'JPEG', dict(exif=True)),
    'png': ('RGB', 'PNG', {}),
    'png alpha': ('RGBA', 'PNG', {}),
    'png palette': ('P', 'PNG', {}),
    'png bits': ('1', 'PNG', {}),
    'png deep': ('I;16', 'PNG', {}),
    'bmp': ('RGB', 'BMP', {}),
    'bmp palette': ('P', 'BMP', {}),
    'bmp bits': ('1', 'BMP', {}),
}


def encode(kind: str) -> bytes:
    """An image of a kind, of colours that blend and a little noise."""
    mode, form, options = KINDS[kind]
    x, y = np.meshgrid(np.linspace(0, 255, SIZE[0]), np.linspace(0, 255, SIZE[1]))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    pixels ^= np.random.default_rng(0).integers(0, 32, pixels.shape, np.uint8)
    image = Image.fromarray(pixels)
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    if 'exif' in options:
        exif = Image.Exif()
        exif[0x112], exif[0x10F] = 6, 'camera'
        options = dict(exif=exif)
    file = io.BytesIO()
    (image if mode == 'I;16' else image.convert(mode)).save(file, form, **options)
    return file.getvalue()


def flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 20))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, rng: random.Random) -> None:
    start, size = rng.randrange(len(content)), rng.choice((1, 2, 4, 16, 200))
    filling = rng.choice((b'\0' * size, b'\xff' * size, rng.randbytes(size)))
    content[start : start + size] = filling[: len(content) - start]


def change_header(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(min(len(content), 60))
        content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def remove(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 2, 30, 500))]


def repeat(content: bytearray, rng: random.Random) -> None:
    start, size = rng.randrange(len(content)), rng.choice((2, 30, 500))
    content[start:start] = content[start : start + size]


def cut(content: bytearray, rng: random.Random) -> None:
    near = rng.random() < 0.5
    del content[-rng.randrange(1, 40) if near else rng.randrange(len(content)) :]


def append(content: bytearray, rng: random.Random) -> None:
    content += rng.choice((b'\0' * 50, rng.randbytes(50), bytes(content)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, overwrite, change_header, remove, repeat, cut, append
)  # fmt: skip


def damage(content: bytes, seed: int) -> bytes:
    """The content with one to three mutations."""
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if changed:
            rng.choice(MUTATIONS)(changed, rng)
    return bytes(changed)


def read(path: str) -> str:
    """'image', 'cut image' or 'message'; else what went wrong with the reader."""
    try:
        reading = load_image(path, decode_twice=len(path) % 2 == 0)
    except BrokenImageError as error:
        text = str(error)
        fine = error.file == path and '\n' not in text and len(text) < 600
        return 'message' if fine else f'a bad message: {text!r}'
    except BaseException as error:
        return f'{type(error).__name__}: {error}'
    if reading.image.size == 0 or reading.image.dtype != np.uint8:
        return f'no image: {reading.image.shape}, {reading.image.dtype}'
    return 'cut image' if reading.cut else 'image'


def run(count: int, folder: Path, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Reads that many damaged images.

    Returns:
        How many ended how, as 'jpeg: message' and so on, and what was wrong.
    """
    kinds = {kind: encode(kind) for kind in KINDS}
    outcomes: Counter[str] = Counter()
    wrong = []
    # Spawned, a process would import for seconds.
    context = multiprocessing.get_context('fork')
    pool = context.Pool(1)
    try:
        for number in track(range(count), description='Reading damaged images'):
            kind = list(kinds)[number % len(kinds)]
            path = folder / f'{number}.{kind.partition(" ")[0]}'
            path.write_bytes(damage(kinds[kind], seed * 10**6 + number))
            try:
                outcome = pool.apply_async(read, (str(path),)).get(TIMEOUT)
            except multiprocessing.TimeoutError:
                outcome = 'a crash or a hang'
                pool.terminate()
                pool = context.Pool(1)
            if outcome in ('image', 'cut image', 'message'):
                outcomes[f'{kind.partition(" ")[0]}: {outcome}'] += 1
                path.unlink()
            else:
                wrong.append(f'{path} ({kind}): {outcome}')
    finally:
        pool.terminate()
    return outcomes, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=6000, help='images (6000)')
    parser.add_argument('--seed', type=int, default=0, help='another gives others (0)')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    outcomes, wrong = run(args.count, folder, args.seed)
    for outcome, number in sorted(outcomes.items()):
        print(f'{number:6} {outcome}')
    print('\n'.join([f'{len(wrong)} went wrong', *wrong]))


if __name__ == '__main__':
    main()
