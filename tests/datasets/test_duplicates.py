"""Images that are in a data set twice, against pixels averaged by hand."""

import io
import itertools
from pathlib import Path

from mmnextvit.datasets.duplicates import (
    BITS,
    MAX_BITS,
    Fingerprint,
    find_exact,
    find_leaks,
    find_near,
    hash_image,
    hash_images,
    take_fingerprint,
)

import numpy as np
import pytest
from PIL import Image

from tests.helpers.turned_images import write_turned

BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd' / 'JPEGImages'


def draw(seed: int, parts: int = 6, size: tuple[int, int] = (272, 256)) -> Image.Image:
    """A smooth image like no other, of some parts of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (parts, parts, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, suffix: str = 'png', **kwargs: object) -> bytes:
    content = io.BytesIO()
    image.save(content, suffix, **kwargs)
    return content.getvalue()


def distance(first: Fingerprint, second: Fingerprint) -> int:
    pairs = zip(first.bits, second.bits)
    return sum((a ^ b).bit_count() for a, b in pairs)


def make(ones: set[int], digest: int = 0) -> Fingerprint:
    """A fingerprint of which some bits are 1."""
    number = sum(1 << i for i in ones)
    return Fingerprint(number.to_bytes(BITS // 8, 'big'), digest.to_bytes(16, 'big'))


# ------------------------------------------------------------------- fingerprints


def test_the_hash_is_whether_each_part_is_brighter_than_the_one_before():
    parts = np.random.default_rng(0).integers(0, 256, (16, 17), np.uint8)
    bits = ''.join(
        '1' if row[i + 1] > row[i] else '0' for row in parts.tolist() for i in range(16)
    )
    by_hand = Fingerprint(int(bits, 2).to_bytes(32, 'big'), b'')
    assert take_fingerprint(encode(Image.fromarray(parts))).bits == by_hand.bits
    # In a larger image each part is an average, of some pixels beyond it too.
    whole = Image.fromarray(np.kron(parts, np.ones((10, 10), np.uint8)))
    assert distance(take_fingerprint(encode(whole)), by_hand) <= 10
    assert distance(take_fingerprint(encode(draw(1))), by_hand) > 80


@pytest.mark.slow
@pytest.mark.parametrize(
    'copy',
    [
        lambda image: encode(image.resize((640, 602)), 'jpeg', quality=60),
        lambda image: encode(image.resize((2000, 1882)), 'jpeg', quality=90),
        lambda image: encode(image.convert('L'), 'png'),
        lambda image: encode(image.point(lambda value: value * 0.8 + 20), 'bmp'),
        lambda image: encode(image.crop((0, 0, 271, 255)), 'png'),
        lambda image: encode(image.convert('P'), 'png'),
        lambda image: encode(image.convert('CMYK'), 'jpeg'),
        lambda image: encode(image.resize((640, 602)), 'jpeg')[:-2],
    ],
    ids=['small', 'large', 'grey', 'dim', 'cropped', 'palette', 'cmyk', 'cut'],
)
def test_copies_are_near(copy):
    for seed in range(3):
        image = draw(seed)
        own, other = take_fingerprint(encode(image)), take_fingerprint(copy(image))
        assert distance(own, other) <= 20 and own.digest != other.digest
        assert find_near([own, other]) == [[0, 1]]
        assert find_exact([own, other]) == []


def test_other_images_are_far():
    taken = [take_fingerprint(encode(draw(seed))) for seed in range(12)]
    apart = [distance(*pair) for pair in itertools.combinations(taken, 2)]
    assert min(apart) > 2 * MAX_BITS
    assert find_near(taken) == []


@pytest.mark.parametrize('mode', ['I;16', 'I', 'F'])
def test_deep_pixels_count_all(mode):
    grey = draw(0).convert('L')
    pixels = np.asarray(grey).astype(np.float32) * 200 + 3000
    types = {'I;16': np.uint16, 'I': np.int32, 'F': np.float32}
    image = Image.fromarray(pixels.astype(types[mode]))
    assert image.mode == mode
    own, deep = (take_fingerprint(encode(i, 'tiff')) for i in (grey, image))
    assert distance(own, deep) <= 8


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_compared_as_they_are_shown(orientation, tmp_path):
    stored, shown = write_turned(tmp_path / 'a.jpg', orientation, (640, 480))
    pixels = shown if orientation in (1, 8) else np.ascontiguousarray(shown)
    turned = hash_image(str(tmp_path / 'a.jpg'))
    assert distance(turned, take_fingerprint(encode(Image.fromarray(pixels)))) <= 4


def test_broken_images_have_no_fingerprint(tmp_path):
    whole = encode(draw(0), 'jpeg')
    contents = {'a': whole, 'half': whole[: len(whole) // 2], 'none': b'', 'text': b'x'}
    for name, content in contents.items():
        (tmp_path / f'{name}.jpg').write_bytes(content)
    (tmp_path / 'folder.jpg').mkdir()
    names = [*contents, 'folder', 'missing', 'a']
    taken = hash_images([str(tmp_path / f'{name}.jpg') for name in names], 'Hashes')
    assert [names[i] for i, found in enumerate(taken) if found] == ['a', 'a']
    assert taken[0] == taken[-1] == take_fingerprint(whole)
    assert find_near(taken) == find_exact(taken) == [[0, 6]]
    assert find_near([None, None]) == find_exact([]) == find_near([]) == []


# --------------------------------------------------------------------- comparison


def near_by_hand(first: Fingerprint, second: Fingerprint, max_bits: int) -> bool:
    """Whether two images are near, from the text of their bits."""
    one, two = (f'{int.from_bytes(f.bits, "big"):0256b}' for f in (first, second))
    pairs = list(zip(one, two))
    differ = sum(a != b for a, b in pairs)
    structure = min(
        sum('1' in pair for pair in pairs), sum('0' in pair for pair in pairs)
    )
    plain = any(min(text.count('0'), text.count('1')) < 16 for text in (one, two))
    near = not plain and differ <= max_bits and 4 * differ <= structure
    return near or first.digest == second.digest


def draw_fingerprints(random: np.random.Generator, count: int) -> list:
    """Hashes of which many are near to others, some plain, some missing."""
    drawn: list = []
    for _ in range(count):
        density = random.choice([0, 0.03, 0.08, 0.2, 0.5, 0.95])
        bits = random.random(BITS) < density
        earlier = [f for f in drawn if f is not None]
        if earlier and random.random() < 0.6:
            origin = earlier[random.integers(len(earlier))]
            bits = np.unpackbits(np.frombuffer(origin.bits, np.uint8)).astype(bool)
            bits[random.integers(0, BITS, random.integers(0, 50))] ^= True
        found = Fingerprint(np.packbits(bits).tobytes(), random.bytes(16))
        if earlier and random.random() < 0.1:
            found = earlier[random.integers(len(earlier))]
        drawn.append(None if random.random() < 0.05 else found)
    return drawn


def group_by_hand(pairs: set[tuple[int, int]], count: int) -> list[list[int]]:
    groups = [{i} for i in range(count)]
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [g for g in groups if g not in touched] + [set().union(*touched)]
    return sorted(sorted(group) for group in groups if len(group) > 1)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('block', [1, 100, 2**20])
def test_groups_and_leaks_are_those_of_all_pairs(seed, block, monkeypatch):
    monkeypatch.setattr('mmnextvit.datasets.duplicates.BLOCK', block)
    random = np.random.default_rng(seed)
    taken = draw_fingerprints(random, 40)
    max_bits = int(random.choice([0, 20, MAX_BITS]))
    numbers = [i for i, found in enumerate(taken) if found is not None]
    pairs = {
        (i, j)
        for i, j in itertools.combinations(numbers, 2)
        if near_by_hand(taken[i], taken[j], max_bits)
    }
    assert find_near(taken, max_bits) == group_by_hand(pairs, 40)
    same = {(i, j) for i, j in pairs if taken[i].digest == taken[j].digest}
    assert find_exact(taken) == group_by_hand(same, 40)

    splits = {'train': taken[:25], 'val': taken[25:33], 'test': taken[33:]}
    offsets = {'train': 0, 'val': 25, 'test': 33}
    leaks = find_leaks(splits, max_bits)
    told = {(leak.splits, leak.images[1]) for leak in leaks}
    assert len(told) == len(leaks)
    for first, second in itertools.combinations(splits, 2):
        for j, found in enumerate(splits[second]):
            near = [
                (distance(taken[k], found), i)
                for i, k in enumerate(range(offsets[first], len(taken)))
                if i < len(splits[first]) and (k, offsets[second] + j) in pairs
            ]
            assert (((first, second), j) in told) == bool(near)
            if near:
                (leak,) = (
                    x for x in leaks if (x.splits, x.images[1]) == ((first, second), j)
                )
                assert (leak.distance, leak.images[0]) == min(near)
                assert leak.exact == (
                    splits[first][leak.images[0]].digest == found.digest
                )
    order = [('train', 'val'), ('train', 'test'), ('val', 'test')]
    places = [(order.index(leak.splits), leak.images[1]) for leak in leaks]
    assert places == sorted(places)


def test_black_images_make_no_group(tmp_path):
    frames = [encode(Image.new('L', (64 + i, 48))) for i in range(5)]
    frames += [encode(Image.linear_gradient('L').rotate(turn)) for turn in (90, 270)]
    frames += [
        encode(Image.new('RGB', (64, 48), colour)) for colour in ('red', 'white')
    ]
    assert find_near([take_fingerprint(frame) for frame in frames]) == []
    again = [take_fingerprint(frame) for frame in (frames[0], frames[1], frames[0])]
    assert find_near(again) == find_exact(again) == [[0, 2]]


def test_small_objects_before_a_wall_are_told_apart():
    """Their hashes differ in few bits, which are nearly all that they have."""
    first, other = set(range(100, 118)), set(range(140, 150))
    here, there = make(first, 1), make(set(range(200, 216)), 2)
    assert distance(here, there) > MAX_BITS
    assert find_near([here, make(set(range(96, 112)) | {120, 121}, 3)]) == []
    assert find_near([here, make(first - {100}, 4)]) == [[0, 1]]
    assert find_near([make(first | other, 5), make(first, 6)]) == []


def test_a_slow_video_is_one_group():
    frames = [make(set(range(i, i + 100)), i) for i in range(0, 120, 10)]
    assert distance(frames[0], frames[-1]) > MAX_BITS
    assert find_near(frames) == [[*range(12)]]
    assert find_near(frames[::-1]) == [[*range(12)]]
    assert find_near([frames[0], frames[-1]]) == []


if BCCD.is_dir():  # real images, two of which are of the same slide

    def test_bccd():
        paths = sorted(map(str, BCCD.glob('*.jpg')))
        taken = hash_images(paths, 'Hashes')
        groups = [[Path(paths[i]).stem for i in group] for group in find_near(taken)]
        assert groups == [['BloodImage_00037', 'BloodImage_00038']]
        assert find_exact(taken) == [] and None not in taken
