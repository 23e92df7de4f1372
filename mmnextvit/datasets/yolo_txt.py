"""Data sets in YOLO's txt format: images, and a label file for each.

What describes them, as a ``data.yaml`` does, is read by `yolo_sources`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, list_lines, shorten
from .faults import Fault, describe_broken_lines, settle, warn
from .images import BrokenImageError
from .own_data import OwnDataMixin, count_content
from .yolo_imageless import describe_imageless, find_imageless
from .yolo_labels import (
    LANDMARKS,
    PIXELS,
    Record,
    Sample,
    are_landmarks,
    build_samples,
    find_label_files,
)
from .yolo_scan import Scan, scan_images
from .yolo_sources import get_source_type, match_classes

Records = Mapping[str, Record]  # by image
MANY_UNLABELLED = 0.1  # of the images: above it their labels may lie elsewhere


def describe_unusable(scan: Scan, title: str, bases: Sequence[str]) -> Fault | None:
    """Of images that are missing or broken.

    Args:
        scan: What was read.
        title: The data set's name, and so are the others.
        bases: Folders that relative paths of a list may count from.
    """
    if not scan.faults:
        return None
    count = len(scan.faults) + len(scan.records)
    message = (
        f'{len(scan.faults)} of the {count} images of {title} are missing or broken:\n'
        f'  {list_lines(scan.faults.values())}\n'
    )
    missing = any(isinstance(f, MissingFileError) for f in scan.faults.values())
    if missing and bases:
        message += f'Relative paths were looked for from {first_few(bases, 8)}. '
    error = (MissingFileError if missing else BrokenImageError)(
        f'{message}Repair them or take them out; skip_broken=True in the training '
        'dataset goes on without them'
    )
    warning = f'{message}skipped' if scan.records else ''
    kind = 'missing' if missing else 'broken'
    return Fault(error, warning, kind, list(scan.faults))


def find_broken_lines(records: Records) -> list[UserError]:
    """The lines of label files that cannot be read."""
    return [
        UserError(reason, file=record.file, line=line)
        for record in records.values()
        for line, reason in (record.labels['broken'] if record.labels else ())
    ]


def describe_boxes(
    records: Records, title: str, class_ids: Collection[int]
) -> Fault | None:
    """Of lines of label files that are boxes, where polygons are wanted."""
    boxes = [
        UserError('this is a box', file=record.file, line=row[0])
        for record in records.values()
        for row in record.rows
        if len(row) == 6 and row[1] in class_ids
    ]
    if not boxes:
        return None
    return Fault(
        UserError(
            f'{len(boxes)} lines in the label files of {title} are boxes, but masks '
            'need polygons (class x1 y1 x2 y2 x3 y3 ...):\n'
            f'  {list_lines(boxes)}\n'
            'Write polygons, or use a detector of boxes',
            file=boxes[0].file,
            line=boxes[0].line,
        )
    )


def describe_pixels(records: Records, title: str) -> Fault | None:
    """Of values that are pixels, if they are on every line."""
    rows = [row for record in records.values() for row in record.rows]
    if not rows or any(max(row[2:]) <= PIXELS for row in rows):
        return None
    file = next(record.file for record in records.values() if record.rows)
    line, _, *values = rows[0]
    message = (
        f'{title} holds no usable box: values are fractions of the width (x, w) and '
        'height (y, h) of the image, from 0 to 1, but they look like pixels, as '
        f'{shorten(values)}: divide them by width and height'
    )
    error = UserError(message, file=file, line=line)
    return Fault(error, str(error))


def describe_landmarks(
    records: Records, title: str, class_ids: Collection[int]
) -> Fault | None:
    """Of lines that are boxes with points inside them, which look like polygons.

    Faces with five landmarks have 15 columns, number plates with four corners 13. No
    polygon's first four numbers are centre and size of a box around all others.
    """
    lines = [
        (record.file, row)
        for record in records.values()
        for row in record.rows
        if len(row) > 6 and row[1] in class_ids
    ]
    counts = {len(row) - 1 for _, row in lines}
    if (
        len(counts) != 1
        or not counts <= LANDMARKS
        or not all(are_landmarks(row[2:]) for _, row in lines)
    ):
        return None
    file, row = lines[0]
    columns = len(row) - 1
    error = UserError(
        f'{len(lines)} lines in the label files of {title} are boxes with '
        f'{(columns - 5) // 2} landmarks (class x y w h and {columns - 5} values), as '
        'those of faces and number plates are, and no polygons. Keep the first five '
        f"columns: awk '{{print $1,$2,$3,$4,$5}}'",
        file=file,
        line=row[0],
    )
    return Fault(error)


def describe_unlabelled(records: Records, title: str) -> Fault | None:
    """Of label files, if there is none; images to predict need none."""
    unlabelled = find_unlabelled(records)
    if not records or len(unlabelled) < len(records):
        return None
    message = (
        f'None of the {len(records)} images of {title} has a label file: '
        f'looked for {records[unlabelled[0]].file or unlabelled[0]}'
    )
    return Fault(MissingFileError(message), message)


def describe_background(records: Records, title: str) -> str:
    """What is told where many images, but not all, have no label file; else nothing."""
    unlabelled = find_unlabelled(records)
    least = max(MANY_UNLABELLED * len(records), 1)
    if not least < len(unlabelled) < len(records):
        return ''
    looked_for = first_few(records[path].file or path for path in unlabelled)
    share = round(100 * len(unlabelled) / len(records))
    return (
        f'{len(unlabelled)} of the {len(records)} images of {title} ({share} %) have '
        f'no label file and count as background: looked for {looked_for}'
    )


def find_unlabelled(records: Records) -> list[str]:
    """The images without a label file."""
    return [path for path, record in records.items() if record.labels is None]


class VerifiedYOLOTxtMixin(OwnDataMixin):
    """A dataset in YOLO's txt format; mix it in before ``BaseDetDataset``.

    A broken line is an error that names file and line; with ``skip_broken`` it is
    dropped with a warning. Lines repeated in a file are dropped and boxes are clipped
    to the image, with a warning. The scan of label files and image headers is kept
    in ``<folder or list>.<split>.mmnextvit-cache.json`` beside the images' folder (in
    it, if that is ``data_root``), for an ``image_list`` with its name behind the split;
    later only what has changed is read. Files are looked for on local disks. Labels lie
    where `find_label_files` says.

    Args:
        ann_file: A ``data.yaml``, Darknet's ``obj.data``, or a file of nothing but
            names: ``classes.txt``, ``obj.names``, ``_darknet.labels``. It counts from
            ``data_root`` unless it is absolute. Its suffix says what it is.
        data_prefix: With a file of names, ``img`` is the folder of the images, a list
            of them, or a list file; without meaning otherwise.
        split: ``'train'``, ``'val'`` or ``'test'``; without meaning for a file of
            names.
        class_ids: The numbers that label files give to the ``classes`` of
            ``metainfo``, in this order; lines of other numbers are left out. Without
            it the classes are all that the file names.
        polygons: Whether every line must be a polygon, for masks.
        metainfo: Its ``classes`` may be left out: the file's names are taken.

    Attributes:
        label_report: Images and ``file:line`` of lines, by what there is to say.

    Raises:
        MissingFileError: The file, images or all label files are missing.
        UserError: The file is unusable, its names differ from ``metainfo``, or lines
            are broken.
        BrokenImageError: Files are no images.
    """

    def __init__(
        self,
        *args: Any,
        split: str = 'train',
        class_ids: Sequence[int] | None = None,
        polygons: bool = False,
        **kwargs: Any,
    ) -> None:
        self.split = split
        self.class_ids = class_ids
        self.polygons = polygons
        self.label_report: dict[str, list[str]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    @property
    def _title(self) -> str:
        return f'{self.ann_file} ({self._part})'

    @property
    def _part(self) -> str:
        """Which of the images that share ``ann_file`` these are."""
        if get_source_type(self.ann_file).has_splits:
            return self.split
        prefix = self.data_prefix.get('img') or ''
        return first_few([prefix] if isinstance(prefix, str) else prefix, 1)

    def _join_prefix(self) -> None:
        """MMEngine's, which knows no lists."""
        prefix = self.data_prefix
        self.data_prefix = {}
        super()._join_prefix()
        joined: dict[str, Any] = {k: self._join(value) for k, value in prefix.items()}
        self.data_prefix = joined

    def _join(self, prefix: str | Sequence[str]) -> str | list[str]:
        if isinstance(prefix, str):
            return os.path.join(self.data_root or '', prefix)
        return [os.path.join(self.data_root or '', part) for part in prefix]

    def _check_classes(self) -> None:
        self._check_ann_file()
        read = get_source_type(self.ann_file).read_names
        names = read(self.ann_file, self.data_root, self.class_ids is not None)
        classes = match_classes(names, self._metainfo.get('classes'), self.class_ids)
        self._metainfo['classes'] = classes
        super()._check_classes()

    def _read_data_list(self) -> list[dict]:
        source_type = get_source_type(self.ann_file)
        names = source_type.read_names(self.ann_file, self.data_root, True).names
        images = source_type.find_images(
            self.ann_file, self.split, self.data_root, self.data_prefix.get('img')
        )
        for note in images.notes:
            self._note(note)
        counts = Counter(images.paths)
        given = (self.ann_file, *images.texts, *images.sources)
        texts = {*map(os.path.abspath, given)}
        kept = sorted(self._keep_listed(counts))
        label_files = find_label_files(sorted(counts), texts)
        # A list may leave images out, and a made split has them all in two.
        of_list = self.test_mode and self.image_list is not None
        if not of_list and all(map(os.path.isdir, images.sources)):
            imageless = find_imageless(label_files, texts, len(names))
            message = describe_imageless(imageless, self._title)
            if message:
                warn(message, 'imageless', imageless.files)
        scan = scan_images(
            {path: label_files[path] for path in kept},
            len(names),
            self._place_cache(Path(images.sources[0])),
            f'Scanning {Path(self.ann_file).name} ({self._part})',
        )
        numbers = range(len(names)) if self.class_ids is None else self.class_ids
        labels = {number: label for label, number in enumerate(numbers)}
        unusable = describe_unusable(scan, self._title, images.bases)
        settle(unusable, self.skip_broken)
        broken = find_broken_lines(scan.records)
        place = f'the label files of {self._title}'
        settle(describe_broken_lines(broken, place), self.skip_broken)
        if self.polygons:
            boxes = describe_boxes(scan.records, self._title, labels)
            settle(boxes, self.skip_broken)
        unlabelled = describe_unlabelled(scan.records, self._title)
        if unlabelled and not self.test_mode:
            raise unlabelled.error  # what else there is to say follows from it
        settle(unlabelled, self.test_mode)
        background = describe_background(scan.records, self._title)
        if background:
            warn(background, 'annotations', find_unlabelled(scan.records))
        settle(describe_landmarks(scan.records, self._title, labels), False)
        settle(describe_pixels(scan.records, self._title), self.test_mode)
        samples = build_samples(scan.records, labels)
        repeated = [path for path in kept if counts[path] > 1]
        self._report(samples, repeated, find_unlabelled(scan.records))
        return [sample.info for sample in samples]

    def _find_missing(self, paths: Sequence[str]) -> list[str]:
        return []  # the scan has looked at each of them

    def _place_cache(self, source: Path) -> Path:
        """Beside a folder or list of images, but not outside ``data_root`` itself."""
        folder = source.parent
        if self.data_root and source == Path(os.path.abspath(self.data_root)):
            folder = source
        # Train and val may be two lists of one folder's images.
        of_list = f'.{Path(self.image_list).stem}' if self.image_list else ''
        return folder / f'{source.name}.{self.split}{of_list}.mmnextvit-cache.json'

    def _report(
        self, samples: list[Sample], repeated: list[str], unlabelled: list[str]
    ) -> None:
        """Says in one warning what is odd, and in one line what there is."""
        for fault, place in (d for sample in samples for d in sample.dropped):
            self.box_faults[fault].append(place)
        for remark, place in (r for sample in samples for r in sample.remarks):
            self.label_report[remark].append(place)
        self.label_report['images listed twice, used once'] += repeated
        self._warn_of(self.label_report)
        self.label_report['images without a label file'] += unlabelled
        content = count_content([sample.info for sample in samples])
        self._note(f'{content}, {len(unlabelled)} of them have no label file')
