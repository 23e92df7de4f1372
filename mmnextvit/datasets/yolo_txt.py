"""Data sets in YOLO's txt format: a ``data.yaml``, images, a label file for each.

Written from the documented format. A line of a label file is ``class x y w h`` (centre
and size of a box) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), all values fractions
of the image's width and height. Only the class at the end needs MMYOLO.
"""

import hashlib
import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.logging import print_log
from PIL import Image
from rich.progress import track

from ..utils.yaml_reader import YAMLFile, read_yaml
from .checks import (
    BrokenImageError,
    VerifiedDataMixin,
    box_fault,
    classes_line,
    listed,
    read_image,
    warn,
)

SPLITS = ('train', 'val', 'test')
SUFFIXES = ('.bmp', '.dng', '.jp2', '.jpeg', '.jpg', '.mpo', '.pbm', '.pgm', '.png',
            '.ppm', '.tif', '.tiff', '.webp')  # fmt: skip
TOLERANCE = 1e-6  # six decimals of centre and size move a side by 0.75e-6
CACHE_FORMAT = 1  # raise it with every change of what `parse_labels` returns
ORIENTATION = 0x112  # EXIF's tag; 5 to 8 swap width and height
MOST_LINES = 20  # of an error's list


def several(items: Iterable[str]) -> str:
    """The first of many for an error, one a line."""
    items = list(items)
    rest = len(items) - MOST_LINES
    more = [f'... and {rest} more'] if rest > 0 else []
    return '\n  '.join([*items[:MOST_LINES], *more])


# ---------------------------------------------------------------------- data.yaml


def read_data_yaml(path: str | Path) -> dict:
    """Reads a ``data.yaml``. Nothing is downloaded or run, no image is looked for.

    Returns:
        ``classes``: tuple of names; ``splits``: lists of what stands at ``train``,
        ``val`` and ``test``, without those that are absent; ``path``: what stands at
        ``path``, or ``''``; ``lines``: line number of each key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is unusable; the message has file, line and key.
    """
    file = read_yaml(path)
    if 'kpt_shape' in file.content:
        raise ValueError(
            f'{file.where("kpt_shape")}: kpt_shape: key points are not read'
        )
    root = file.content.get('path') or ''
    if not isinstance(root, str):
        raise ValueError(f'{file.where("path")}: path is {root!r}, no folder')
    splits = {}
    for key in SPLITS:
        value = file.content.get(key) or []  # `test:` without a value is usual
        sources = [value] if isinstance(value, str) else value
        if not isinstance(sources, list) or not all(
            isinstance(source, str) and source for source in sources
        ):
            raise ValueError(
                f'{file.where(key)}: {key} is {value!r}: a folder, a .txt list or a '
                'list of these is wanted'
            )
        if sources:
            splits[key] = sources
    if not splits:
        raise ValueError(f'{file.path} has none of the keys {", ".join(SPLITS)}')
    lines = {keys[0]: line for keys, line in file.lines.items() if len(keys) == 1}
    return dict(classes=_class_names(file), splits=splits, path=root, lines=lines)


def _class_names(file: YAMLFile) -> tuple[str, ...]:
    names = file.content.get('names')
    if not isinstance(names, (list, dict)) or not names:
        raise ValueError(
            f'{file.where("names")}: names is {names!r}: a list of class names is '
            "wanted, as in `names: ['cat', 'dog']`"
        )
    keyed = isinstance(names, dict)
    names = names if keyed else dict(enumerate(names))
    wrong = [key for key in names if type(key) is not int]
    missing = sorted(set(range(len(names))) - set(names))
    if wrong or missing:
        fault = f'{wrong[0]!r} is no whole number' if wrong else f'{missing[0]} is none'
        raise ValueError(
            f'{file.where("names")}: the keys of names must be 0 to {len(names) - 1}: '
            + fault
        )
    for key, name in names.items():
        if type(name) not in (str, int) or name == '':  # YAML takes `no` for False
            raise ValueError(
                f'{file.where("names", str(key) if keyed else key)}: names: class '
                f'{key} is {name!r}: write it in quotes'
            )
    names = tuple(str(names[key]) for key in sorted(names))
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f'{file.where("names")}: names has {name!r} {times} times')
    number = file.content.get('nc', len(names))
    if type(number) is not int or number != len(names):
        raise ValueError(
            f'{file.where("nc")}: nc is {number!r}, but names (line '
            f'{file.lines["names",]}) has {len(names)}: write nc: {len(names)}'
        )
    return names


def find_sources(
    path: str | Path, split: str, data_root: str | None = None
) -> list[str]:
    """The folders and list files of a split of a ``data.yaml``.

    A source is looked for in ``path`` below the YAML file's folder, in ``path`` below
    ``data_root``, and in these two folders themselves; then in the same without its
    leading ``../``, as Roboflow's files need it. The first that exists is taken.

    Raises:
        FileNotFoundError: Where it has been looked for.
        ValueError: There is no such split.
    """
    content = read_data_yaml(path)
    if split not in content['splits']:
        raise ValueError(
            f'{path} has no {split!r}: set split of the dataset to one of '
            f'{", ".join(content["splits"])}, or write {split}: into the file'
        )
    found = []
    for source in content['splits'][split]:
        names = dict.fromkeys((source, source.removeprefix('../')))
        bases = _bases(path, content['path'], data_root)
        tried = [_join(base, name) for name in names for base in bases]
        there = [place for place in tried if os.path.exists(place)]
        if not there:
            line = content['lines'][split]
            download = (
                ' (download: is not run: fetch the data yourself)'
                if 'download' in content['lines']
                else ''
            )
            raise FileNotFoundError(
                f'{path}:{line}: {split}: {source} is not found, looked for '
                f'{", ".join(dict.fromkeys(tried))}. Set path: in the file or '
                f'data_root (now {data_root!r}) of the dataset{download}'
            )
        found.append(there[0])
    return found


def _join(base: str, name: str) -> str:
    return os.path.abspath(os.path.join(base, name))


def _bases(path: str | Path, root: str, data_root: str | None) -> list[str]:
    here = os.path.dirname(os.path.abspath(path))
    there = os.path.abspath(data_root) if data_root else here
    return list(dict.fromkeys(_join(b, r) for r in (root, '') for b in (here, there)))


def find_images(source: str, bases: Iterable[str] = ()) -> list[str]:
    """The images in a folder and all below it, or those that a list file names.

    Entries of a list that start with ``./`` count from the list's folder, other
    relative ones from the first of that folder, ``bases`` and the working folder where
    the first entry lies.

    Raises:
        ValueError: There is none, or ``source`` is another kind of file.
    """
    found = []
    if os.path.isdir(source):
        seen = set()
        for here, folders, names in os.walk(source, followlinks=True):
            real = os.path.realpath(here)
            if real in seen:  # links may form a circle
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(f for f in folders if not f.startswith('.'))
            found += [
                os.path.join(here, name)
                for name in names
                if name.lower().endswith(SUFFIXES) and not name.startswith('.')
            ]
        if not found:
            raise ValueError(f'{source} holds no image ({", ".join(SUFFIXES)})')
        return found
    if not source.endswith('.txt'):
        raise ValueError(f'{source} is neither a folder nor a .txt list of images')
    try:
        lines = Path(source).read_text(encoding='utf-8-sig').split('\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{source} is not text in UTF-8: {error}') from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError(f'{source} lists no images')
    here = os.path.dirname(source)
    plain = [n for n in lines if not n.startswith('./') and not os.path.isabs(n)]
    base = here
    for place in (here, *bases, os.getcwd()) if plain else ():
        if os.path.exists(_join(place, plain[0])):
            base = place
            break
    return [_join(here if line.startswith('./') else base, line) for line in lines]


def label_file(image: str) -> str:
    """Where an image's labels lie: the last ``images`` of its folders is ``labels``.

    Without such a folder they lie beside the image.
    """
    before, found, after = image.rpartition(f'{os.sep}images{os.sep}')
    if found:
        image = os.path.join(before, 'labels', after)
    return os.path.splitext(image)[0] + '.txt'


# ------------------------------------------------------------------ an image's data


def parse_line(line: str, num_classes: int) -> tuple:
    """``(class, x, y, w, h)`` or ``(class, x1, y1, x2, y2, x3, y3, ...)``.

    Raises:
        ValueError: What is wrong with the line.
    """
    values = [float(column) for column in line.split()]
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(
            f'{len(values)} columns: 5 (class x y w h) or an odd number from 7 (class '
            'and the points of a polygon) are wanted'
        )
    if not all(map(math.isfinite, values)):
        raise ValueError('NaN or infinite')
    label = int(values[0])
    if label != values[0]:
        raise ValueError(f'class {values[0]} is no whole number')
    if not 0 <= label < num_classes:
        raise ValueError(f'class {label} is not in 0 to {num_classes - 1}')
    return label, *values[1:]


def parse_labels(content: bytes, num_classes: int) -> dict[str, list]:
    """Reads a label file.

    Args:
        content: What the file holds.
        num_classes: Number of classes, which the labels lie below.

    Returns:
        ``rows``: line number and what `parse_line` gives, as one list each;
        ``broken``: line numbers with what is wrong; ``repeated``: numbers of lines
        that say what an earlier line says.
    """
    parsed = dict(rows=[], broken=[], repeated=[])
    try:
        lines = content.decode('utf-8-sig').replace('\r\n', '\n').split('\n')
    except UnicodeDecodeError:
        lines = []
        parsed['broken'].append([1, 'the file is not text'])
    seen = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_line(line, num_classes)
        except ValueError as error:
            parsed['broken'].append([number, str(error)[:200]])
            continue
        if row in seen:
            parsed['repeated'].append(number)
        else:
            parsed['rows'].append([number, *row])
        seen.add(row)
    return parsed


def bounding_box(points: Sequence[float]) -> Sequence[float]:
    """``x1, y1, x2, y2`` around a polygon; a box itself, which may be turned over."""
    if len(points) == 4:
        return points
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def image_size(path: str) -> tuple[int, int]:
    """Width and height that the loaded image has, from the file's header.

    Raises:
        BrokenImageError: It is no image.
    """
    try:
        with Image.open(path) as image:
            # To look for EXIF that a header lacks, Pillow would decode a whole PNG.
            has_exif = 'exif' in image.info or image.format == 'TIFF'
            turned = has_exif and image.getexif().get(ORIENTATION, 1) > 4
            if not turned:
                return image.size
            if image.format in ('JPEG', 'MPO'):
                return image.size[::-1]
    except Exception:  # Pillow raises many kinds; what loads the image decides
        pass
    # Whether OpenCV turns other formats depends on its version.
    height, width = read_image(path).shape[:2]
    return width, height


def signature(image: str) -> list[int | None] | None:
    """Changes with the image or its label file; ``None`` without an image."""
    try:
        of_image = os.stat(image)
    except OSError:
        return None
    found = [of_image.st_size, of_image.st_mtime_ns]
    try:
        of_labels = os.stat(label_file(image))
    except OSError:
        return [*found, None, None]
    return [*found, of_labels.st_size, of_labels.st_mtime_ns]


# --------------------------------------------------------------------------- cache


def _header(body: str, num_classes: int) -> dict:
    digest = hashlib.sha256(body.encode()).hexdigest()
    return dict(format=CACHE_FORMAT, num_classes=num_classes, sha256=digest)


def load_cache(path: Path, num_classes: int) -> dict[str, list]:
    """What `save_cache` wrote; empty if it is absent, damaged or of another format."""
    try:
        header, _, body = path.read_text(encoding='utf-8').partition('\n')
        if json.loads(header) == _header(body, num_classes):
            return json.loads(body)
    except (OSError, ValueError, RecursionError):
        pass
    return {}


def save_cache(path: Path, entries: dict[str, list], num_classes: int) -> None:
    """Writes the cache as a whole or not at all; warns where that is impossible."""
    body = json.dumps(entries)
    part = path.with_name(f'{path.name}.{os.getpid()}')
    try:
        try:
            part.write_text(f'{json.dumps(_header(body, num_classes))}\n{body}')
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        warn(f'The scan is not kept for the next start: {path} cannot be written '
             f'({error.strerror})')  # fmt: skip


# ------------------------------------------------------------------------- dataset


class YOLOTxtReader:
    """What `VerifiedYOLOTxtMixin` reads; it stands between the checks and MMDetection.

    Files are looked for on local disks.
    """

    def load_data_list(self) -> list[dict]:
        sources = find_sources(self.ann_file, self.split, self.data_root)
        content = read_data_yaml(self.ann_file)
        if 'download' in content['lines']:
            self._note('download: is not run')
        bases = _bases(self.ann_file, content['path'], self.data_root)
        images = [p for source in sources for p in find_images(source, bases)]
        self.label_report = defaultdict(list)
        repeated = [path for path, n in Counter(images).items() if n > 1]
        self.label_report['images listed twice, used once'] = repeated
        first = Path(sources[0])
        cache = first.with_name(f'{first.name}.{self.split}.mmnextvit-cache.json')
        records = self._records(sorted(set(images)), cache)
        self._check_lines(records)
        data_list = [
            self._data_info(number, path, *record)
            for number, (path, record) in enumerate(records.items())
        ]
        self._report_labels(records, data_list)
        return data_list

    def _records(self, images: list[str], cache: Path) -> dict[str, list]:
        """``[width, height, labels]`` of each image, from the cache where it can."""
        num_classes = len(self._metainfo['classes'])

        def read(path: str) -> list | BrokenImageError | OSError:
            try:
                labels = None
                if signatures[path][3] is not None:
                    content = Path(label_file(path)).read_bytes()
                    labels = parse_labels(content, num_classes)
                return [*image_size(path), labels]
            except (BrokenImageError, OSError) as error:
                return error

        known = load_cache(cache, num_classes)
        with ThreadPoolExecutor() as pool:
            signatures = dict(zip(images, pool.map(signature, images)))
            there = [path for path in images if signatures[path] is not None]
            new = [p for p in there if known.get(p, [None])[0] != signatures[p]]
            progress = track(
                pool.map(read, new),
                description=f'Scanning {Path(self.ann_file).name} ({self.split})',
                total=len(new),
                disable=get_rank() != 0 or not new,
            )
            read_now = dict(zip(new, progress, strict=True))
        found = {p: read_now[p] if p in read_now else known[p][1] for p in there}
        faults = {p: f'{p} does not exist' for p in images if p not in found}
        faults |= {p: str(f) for p, f in found.items() if isinstance(f, Exception)}
        records = {path: found[path] for path in images if path not in faults}
        if (new or len(known) != len(records)) and get_rank() == 0:
            entries = {p: [signatures[p], record] for p, record in records.items()}
            save_cache(cache, entries, num_classes)
        if faults:
            message = (
                f'{len(faults)} of the {len(images)} images of {self.ann_file} '
                f'({self.split}) are missing or broken:\n  {several(faults.values())}\n'
            )
            if not self.skip_broken or not records:
                absent = len(there) < len(images)
                raise (FileNotFoundError if absent else BrokenImageError)(
                    f'{message}Repair them or take them out; skip_broken=True in the '
                    'training dataset goes on without them'
                )
            warn(f'{message}skipped')
        return records

    def _check_lines(self, records: dict[str, list]) -> None:
        broken = [
            f'{label_file(path)}:{line}: {reason}'
            for path, (_, _, labels) in records.items()
            for line, reason in (labels or {}).get('broken', ())
        ]
        if broken:
            message = (
                f'{len(broken)} broken lines in the label files of {self.ann_file} '
                f'({self.split}):\n  {several(broken)}\n'
            )
            if not self.skip_broken:
                raise ValueError(
                    f'{message}Repair them; skip_broken=True in the training dataset '
                    'goes on without these lines'
                )
            warn(f'{message}dropped')
        boxes = [
            f'{label_file(path)}:{row[0]}'
            for path, (_, _, labels) in records.items()
            for row in (labels or {}).get('rows', ())
            if self.polygons and len(row) == 6
        ]
        if boxes:
            raise ValueError(
                f'{len(boxes)} lines in the label files of {self.ann_file} '
                f'({self.split}) are boxes, but masks need polygons (class x1 y1 x2 y2 '
                f'x3 y3 ...):\n  {several(boxes)}\nWrite polygons, or use a detector '
                'of boxes'
            )
        without = [path for path, (_, _, labels) in records.items() if labels is None]
        if len(without) == len(records):
            message = (
                f'None of the {len(records)} images of {self.ann_file} ({self.split})'
                f' has a label file: looked for {label_file(without[0])}'
            )
            if not self.test_mode:
                raise FileNotFoundError(message)
            warn(message)

    def _data_info(
        self, number: int, path: str, width: int, height: int, labels: dict | None
    ) -> dict:
        file = label_file(path)
        instances = []
        for line, label, *values in (labels or {}).get('rows', ()):
            where = f'{file}:{line}'
            if len(values) == 4:
                x, y, w, h = values
                values = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            least, most = min(values), max(values)
            if least < -TOLERANCE or most > 1 + TOLERANCE:
                kind = 'lines with values out of range (clipped to the image)'
                self.label_report[kind].append(where)
            fault = box_fault(bounding_box(values), 1, 1)
            if least < 0 or most > 1:
                values = [min(max(value, 0), 1) for value in values]
                fault = fault or box_fault(bounding_box(values), 1, 1)
            if fault:
                self.box_faults[fault].append(where)
                continue
            x1, y1, x2, y2 = bounding_box(values)
            bbox = [x1 * width, y1 * height, x2 * width, y2 * height]
            instance = dict(bbox=bbox, bbox_label=label, ignore_flag=0)
            if len(values) > 4:
                sides = width, height
                instance['mask'] = [[v * sides[i % 2] for i, v in enumerate(values)]]
            instances.append(instance)
        for line in (labels or {}).get('repeated', ()):
            self.label_report['repeated lines (dropped)'].append(f'{file}:{line}')
        return dict(
            img_path=path,
            img_id=number,
            width=width,
            height=height,
            instances=instances,
        )

    def _report_labels(self, records: dict[str, list], data_list: list[dict]) -> None:
        kinds = [
            f'{len(places)} {kind}: {listed(places)}'
            for kind, places in self.label_report.items()
            if places
        ]
        if kinds:
            warn(f'{self.ann_file} ({self.split}): {"; ".join(kinds)}')
        without = [path for path, (_, _, labels) in records.items() if labels is None]
        self.label_report['images without a label file'] = without
        boxes = [len(data['instances']) for data in data_list]
        self._note(
            f'{len(boxes)} images, {sum(boxes)} boxes; {boxes.count(0)} images '
            f'without a box are background, {len(without)} of them have no label file'
        )

    def _note(self, message: str) -> None:
        text = f'{self.ann_file} ({self.split}): {message}'
        print_log(text, logger='current', level=logging.INFO)

    def filter_data(self) -> list[dict]:
        if self.test_mode:
            return self.data_list
        cfg = self.filter_cfg or {}
        return [
            data
            for data in self.data_list
            if (data['instances'] or not cfg.get('filter_empty_gt', False))
            and min(data['width'], data['height']) >= cfg.get('min_size', 0)
        ]


class VerifiedYOLOTxtMixin(VerifiedDataMixin, YOLOTxtReader):
    """A dataset in YOLO's txt format; mix it in before ``BaseDetDataset``.

    A broken line is an error that names file and line; with ``skip_broken`` it is
    dropped with a warning. Lines repeated in a file are dropped and boxes are clipped
    to the image, with a warning. The scan of label files and image headers is kept
    in ``<folder or list>.<split>.mmnextvit-cache.json`` beside the images' folder;
    later only what has changed is read. ``data_prefix`` has no meaning here.

    Args:
        ann_file: The ``data.yaml``, below ``data_root`` unless absolute.
        split: ``'train'``, ``'val'`` or ``'test'``.
        polygons: Whether every line must be a polygon, for masks.
        metainfo: Its ``classes`` may be left out: the file's names are taken.

    Attributes:
        label_report: Kind of remark to the places, as ``file:line`` or image.

    Raises:
        FileNotFoundError: The file, images or all label files are missing.
        ValueError: The file is unusable, its names differ from ``metainfo``, or lines
            are broken.
        BrokenImageError: Files are no images.
    """

    def __init__(
        self, *args, split: str = 'train', polygons: bool = False, **kwargs
    ) -> None:
        self.split = split
        self.polygons = polygons
        super().__init__(*args, **kwargs)

    def _check_class_names(self) -> None:
        self._check_ann_file()
        content = read_data_yaml(self.ann_file)
        names = content['classes']
        given = self._metainfo.setdefault('classes', names)
        super()._check_class_names()
        if tuple(given) != names:
            raise ValueError(
                f'{self.ann_file}:{content["lines"]["names"]}: names are {names}, the '
                f'config has {tuple(given)}. Write {classes_line(names)}'
            )
        self._metainfo['classes'] = names


if find_spec('mmyolo') is not None:
    from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset
    from mmyolo.registry import DATASETS

    @DATASETS.register_module()
    class VerifiedYOLOTxtDataset(VerifiedYOLOTxtMixin, BatchShapePolicyDataset):
        """MMYOLO's dataset of YOLO txt files with the checks of `VerifiedDataMixin`."""
