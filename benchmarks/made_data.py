"""Data sets for choosing recipes: cut-out pictures on photographs, as folders of YOLO.

    apt-get download tuxpaint-stamps-default ...
    for file in *.deb; do dpkg -x $file pictures; done
    python benchmarks/made_data.py pictures/usr/share -o FOLDER

The pictures are those of Debian's packages: stamps of Tux Paint, whose backgrounds are
transparent, and wallpapers. Three sets are made:

- one: mostly one large mammal on an image, partly hidden or cut off
- groups: two to seven mammals that overlap, with smaller ones among them
- small: four to fifteen small vehicles, birds and pieces of food

Mammals, birds and so on of the validation images are on no training image.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIDE = 500  # of a stamp, pixels at most
CLUTTER = ['plants', 'food', 'household', 'vehicles', 'town', 'clothes']
CLUTTER += ['hobbies', 'sports']
NAMES = dict(one=['mammal'], groups=['mammal'], small=['vehicle', 'bird', 'food'])
IMAGES = dict(one=(145, 100), groups=(145, 100), small=(145, 80))  # train, val
SIZES = [(480, 360), (480, 320), (400, 400), (360, 480), (480, 480)]
DRAWN = ('cartoon', 'toys', 'clipart')  # no photographs

Stamp = tuple[str, np.ndarray]  # name, and (H, W, 4) BGR with alpha


def read_stamps(folder: Path) -> list[Stamp]:
    """The photographs among the stamps below a folder, cut to what is opaque."""
    stamps = []
    for file in sorted(folder.rglob('*.png')):
        if any(word in str(file) for word in DRAWN) or '_mirror' in file.stem:
            continue
        stamp = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if stamp is None or stamp.ndim != 3 or stamp.shape[2] != 4:
            continue
        opaque = stamp[..., 3] > 128
        if (stamp[..., 3] < 128).mean() < 0.05:
            continue
        rows, columns = np.nonzero(opaque)
        top, left = rows.min(), columns.min()
        stamp = stamp[top : rows.max() + 1, left : columns.max() + 1]
        if min(stamp.shape[:2]) < 60:
            continue
        scale = SIDE / max(stamp.shape[:2])
        if scale < 1:
            stamp = shrink(stamp, scale)
        stamps.append((file.stem, stamp))
    return stamps


def read_backgrounds(folder: Path) -> list[np.ndarray]:
    """Wallpapers, 1,100 pixels on their shorter side."""
    files = [
        *sorted((folder / 'backgrounds').rglob('*.jpg')),
        *sorted((folder / 'wallpapers').rglob('*.jpg')),
        *sorted((folder / 'backgrounds').rglob('*.png')),
    ]
    images = [cv2.imread(str(file)) for file in files]
    large = [
        image for image in images if image is not None and min(image.shape[:2]) >= 700
    ]
    return [shrink(image, 1100 / min(image.shape[:2])) for image in large]


def shrink(image: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


class Scene:
    """An image that is being made, and who owns each of its pixels."""

    def __init__(self, rng: random.Random, background: np.ndarray, size: Sequence[int]):
        self.rng = rng
        self.size = self.width, self.height = size
        self.image = self._cut(background)
        self.owner = np.full((self.height, self.width), -1, np.int32)
        self.labels: list[tuple[int | None, int]] = []  # class, pixels when pasted

    def _cut(self, background: np.ndarray) -> np.ndarray:
        rng, (height, width) = self.rng, background.shape[:2]
        scale = rng.uniform(0.35, 1.0)
        w, h = (
            min(int(self.width / scale), width),
            min(int(self.height / scale), height),
        )
        x, y = rng.randrange(width - w + 1), rng.randrange(height - h + 1)
        part = background[y : y + h, x : x + w]
        part = cv2.resize(part, self.size, interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            part = part[:, ::-1]
        return np.ascontiguousarray(part).astype(np.float32)

    def paste(
        self, stamp: Stamp, label: int | None, centre: Sequence[float], size: float
    ) -> None:
        """Puts a stamp on top, turned and in changed colours.

        Args:
            stamp: What to paste.
            label: Its class; ``None`` for clutter.
            centre: x and y, pixels.
            size: Of its longer side, pixels.
        """
        rng, image = self.rng, stamp[1].astype(np.float32)
        scale = size / max(image.shape[:2])
        stretched = scale * rng.uniform(0.85, 1.15)
        w = max(4, int(image.shape[1] * scale))
        h = max(4, int(image.shape[0] * stretched))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (w, h), interpolation=how)
        if rng.random() < 0.5:
            image = image[:, ::-1]
        angle, side = rng.uniform(-15, 15), int(np.hypot(w, h)) + 2
        turn = cv2.getRotationMatrix2D((w / 2, h / 2), angle, 1)
        turn[:, 2] += [(side - w) / 2, (side - h) / 2]
        image = cv2.warpAffine(np.ascontiguousarray(image), turn, (side, side))
        alpha = cv2.GaussianBlur(image[..., 3:] / 255, (3, 3), 0)[..., None]
        contrast, brightness = rng.uniform(0.7, 1.1), rng.uniform(0.6, 1.25)
        colours = np.clip((image[..., :3] - 128) * contrast + 128 * brightness, 0, 255)

        left, top = (int(middle - side / 2) for middle in centre)
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.width, left + side), min(self.height, top + side)
        pixels = 0
        if x1 > x0 and y1 > y0:
            seen = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
            share = alpha[seen]
            there = self.image[y0:y1, x0:x1]
            self.image[y0:y1, x0:x1] = there * (1 - share) + colours[seen] * share
            mask = share[..., 0] > 0.5
            self.owner[y0:y1, x0:x1][mask] = len(self.labels)
            pixels = int(mask.sum())
        self.labels.append((label, pixels))

    def list_boxes(self) -> list[tuple[int, float, float, float, float]]:
        """Class, centre, width and height, as shares, of what is seen well enough."""
        boxes = []
        for number, (label, pixels) in enumerate(self.labels):
            mask = self.owner == number
            if label is None or mask.sum() < max(16, 0.15 * pixels):
                continue
            rows, columns = np.nonzero(mask)
            x0, x1 = columns.min(), columns.max() + 1
            y0, y1 = rows.min(), rows.max() + 1
            middle = (x0 + x1) / 2 / self.width, (y0 + y1) / 2 / self.height
            sides = (x1 - x0) / self.width, (y1 - y0) / self.height
            boxes.append((label, *middle, *sides))
        return boxes


def compose(
    rng: random.Random,
    kind: str,
    pools: list[list[Stamp]],
    clutter: list[Stamp],
    backgrounds: list[np.ndarray],
) -> Scene:
    """A scene of one of the three kinds, with clutter behind and before."""
    size = rng.choice(SIZES)
    scene = Scene(rng, rng.choice(backgrounds), size)
    (width, height), side = size, min(size)

    def scatter(count: int, least: float, most: float) -> None:
        for _ in range(count):
            stamp = rng.choice(clutter)
            place = rng.uniform(0, width), rng.uniform(0, height)
            scene.paste(stamp, None, place, rng.uniform(least, most) * side)

    scatter(rng.randrange(0, 4), 0.15, 0.5)
    if kind == 'one':
        for _ in range(1 if rng.random() < 0.85 else 2):
            stamp = rng.choice(pools[0])
            place = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
            scene.paste(stamp, 0, place, rng.uniform(0.5, 1.25) * side)
    elif kind == 'groups':
        first, count = rng.choice(pools[0]), rng.randrange(2, 8)
        x, y = rng.uniform(0.1, 0.3) * width, rng.uniform(0.4, 0.7) * height
        grown = rng.uniform(0.4, 0.8) * side
        for _ in range(count):
            stamp = first if rng.random() < 0.6 else rng.choice(pools[0])
            place = x, y + rng.uniform(-0.12, 0.12) * height
            young = rng.random() < 0.35
            share = rng.uniform(0.35, 0.6) if young else rng.uniform(0.8, 1.1)
            scene.paste(stamp, 0, place, grown * share)
            x += grown * rng.uniform(0.25, 0.75)
            if x > width:
                x, y = rng.uniform(0, 0.4) * width, y + 0.15 * height
    else:
        for _ in range(rng.randrange(4, 16)):
            label = rng.randrange(3)
            stamp = rng.choice(pools[label])
            place = rng.uniform(0.03, 0.97) * width, rng.uniform(0.03, 0.97) * height
            scene.paste(stamp, label, place, rng.uniform(0.05, 0.16) * side)
    scatter(rng.randrange(0, 2), 0.1, 0.3)
    noise = np.random.RandomState(rng.randrange(10**6)).randn(height, width, 1)
    scene.image = np.clip(scene.image + noise * rng.uniform(0, 8), 0, 255)
    if rng.random() < 0.3:
        scene.image = cv2.GaussianBlur(scene.image, (3, 3), 0)
    return scene


def split(pool: list[Stamp], rng: random.Random) -> tuple[list[Stamp], list[Stamp]]:
    """Stamps for training and for validation."""
    pool = pool[:]
    rng.shuffle(pool)
    count = int(len(pool) * 0.65)
    return pool[:count], pool[count:]


def make(kind: str, source: Path, out: Path) -> None:
    """Writes one of the sets."""
    rng = random.Random(kind)
    stamps = source / 'tuxpaint/stamps'
    birds = read_stamps(stamps / 'animals/birds')
    others = [stamp for name in CLUTTER for stamp in read_stamps(stamps / name)]
    if kind == 'small':
        pools = [read_stamps(stamps / 'vehicles'), birds, read_stamps(stamps / 'food')]
        named = {name for pool in pools for name, _ in pool}
        clutter = [stamp for stamp in others if stamp[0] not in named]
    else:
        pools, clutter = [read_stamps(stamps / 'animals/mammals')], birds + others
    parts = [split(pool, rng) for pool in pools]
    parts.append(split(clutter, rng))
    backgrounds = read_backgrounds(source)
    for number, part in enumerate(('train', 'val')):
        images, labels = out / 'images' / part, out / 'labels' / part
        for folder in (images, labels):
            folder.mkdir(parents=True)
        *own, rest = (both[number] for both in parts)
        done = 0
        while done < IMAGES[kind][number]:
            scene = compose(rng, kind, own, rest, backgrounds)
            boxes = scene.list_boxes()
            if not boxes:
                continue
            quality = [cv2.IMWRITE_JPEG_QUALITY, 88]
            image = scene.image.astype(np.uint8)
            cv2.imwrite(str(images / f'{done:04d}.jpg'), image, quality)
            lines = [
                f'{label} ' + ' '.join(f'{share:.5f}' for share in place) + '\n'
                for label, *place in boxes
            ]
            text = ''.join(lines)
            (labels / f'{done:04d}.txt').write_text(text, encoding='utf-8')
            done += 1
    data = f'path: .\ntrain: images/train\nval: images/val\nnames: {NAMES[kind]}\n'
    (out / 'data.yaml').write_text(data, encoding='utf-8')


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('source', type=Path, help='usr/share of the unpacked packages')
    p.add_argument('-o', '--out', type=Path, required=True, help='folder to write')
    args = p.parse_args()
    for kind in NAMES:
        make(kind, args.source, args.out / kind)


if __name__ == '__main__':
    main()
