"""Data sets in YOLO's txt format: a ``data.yaml``, images, a label file for each."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, list_lines, shorten
from .checks import VerifiedDataMixin, show_classes, write_classes
from .data_yaml import find_images, find_sources, list_bases, read_data_yaml
from .faults import Fault, settle, warn
from .images import BrokenImageError
from .yolo_labels import PIXELS, Record, Sample, build_sample, find_label_file
from .yolo_scan import Scan, scan_images

Records = Mapping[str, Record]  # by image


def describe_unusable(scan: Scan, title: str) -> Fault | None:
    """Of images that are missing or broken.

    Args:
        scan: What was read.
        title: The data set's name, and so are the others.
    """
    if not scan.faults:
        return None
    count = len(scan.faults) + len(scan.records)
    message = (
        f'{len(scan.faults)} of the {count} images of {title} are missing or broken:\n'
        f'  {list_lines(scan.faults.values())}\n'
    )
    missing = any(isinstance(f, MissingFileError) for f in scan.faults.values())
    error = (MissingFileError if missing else BrokenImageError)(
        f'{message}Repair them or take them out; skip_broken=True in the training '
        'dataset goes on without them'
    )
    return Fault(error, f'{message}skipped' if scan.records else '')


def describe_broken_lines(records: Records, title: str) -> Fault | None:
    """Of lines of label files that cannot be read."""
    broken = [
        UserError(reason, file=find_label_file(path), line=line)
        for path, record in records.items()
        for line, reason in (record.labels['broken'] if record.labels else ())
    ]
    if not broken:
        return None
    message = (
        f'{len(broken)} broken lines in the label files of {title}:\n'
        f'  {list_lines(broken)}\n'
    )
    error = UserError(
        f'{message}Repair them; skip_broken=True in the training dataset goes on '
        'without these lines',
        file=broken[0].file,
        line=broken[0].line,
    )
    return Fault(error, f'{message}dropped')


def describe_boxes(records: Records, title: str) -> Fault | None:
    """Of lines of label files that are boxes, where polygons are wanted."""
    boxes = [
        UserError('this is a box', file=find_label_file(path), line=row[0])
        for path, record in records.items()
        for row in record.rows
        if len(row) == 6
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
    lines = [(path, row) for path, record in records.items() for row in record.rows]
    if not lines or any(max(row[2:]) <= PIXELS for _, row in lines):
        return None
    path, (line, _, *values) = lines[0]
    message = (
        f'{title} holds no usable box: values are fractions of the width (x, w) and '
        'height (y, h) of the image, from 0 to 1, but they look like pixels, as '
        f'{shorten(values)}: divide them by width and height'
    )
    error = UserError(message, file=find_label_file(path), line=line)
    return Fault(error, str(error))


def describe_unlabelled(records: Records, title: str) -> Fault | None:
    """Of label files, if there is none; images to predict need none."""
    unlabelled = find_unlabelled(records)
    if len(unlabelled) < len(records):
        return None
    message = (
        f'None of the {len(records)} images of {title} has a label file: '
        f'looked for {find_label_file(unlabelled[0])}'
    )
    return Fault(MissingFileError(message), message)


def count_content(samples: Sequence[Sample], unlabelled: Sequence[str]) -> str:
    """What a data set holds, in a line."""
    boxes = [len(sample.info['instances']) for sample in samples]
    return (
        f'{len(boxes)} images, {sum(boxes)} boxes; {boxes.count(0)} images without a '
        f'box are background, {len(unlabelled)} of them have no label file'
    )


def find_unlabelled(records: Records) -> list[str]:
    """The images without a label file."""
    return [path for path, record in records.items() if record.labels is None]


def filter_samples(
    data_list: Iterable[dict], filter_empty_gt: bool = False, min_size: int = 0
) -> list[dict]:
    """Leaves out images as MMDetection's ``filter_cfg`` says.

    Args:
        data_list: Samples.
        filter_empty_gt: Leave out images without a box.
        min_size: The smallest width and height of an image in pixels.
    """
    return [
        data
        for data in data_list
        if (data['instances'] or not filter_empty_gt)
        and min(data['width'], data['height']) >= min_size
    ]


class VerifiedYOLOTxtMixin(VerifiedDataMixin):
    """A dataset in YOLO's txt format; mix it in before ``BaseDetDataset``.

    A broken line is an error that names file and line; with ``skip_broken`` it is
    dropped with a warning. Lines repeated in a file are dropped and boxes are clipped
    to the image, with a warning. The scan of label files and image headers is kept
    in ``<folder or list>.<split>.mmnextvit-cache.json`` beside the images' folder, for
    an ``image_list`` with its name behind the split; later only what has changed is
    read. Files are looked for on local disks, and
    ``data_prefix`` has no meaning here.

    Args:
        ann_file: The ``data.yaml``, below ``data_root`` unless absolute.
        split: ``'train'``, ``'val'`` or ``'test'``.
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

    METAINFO = dict(palette=CocoDataset.METAINFO['palette'])  # to be joined with COCO's

    def __init__(
        self,
        *args: Any,
        split: str = 'train',
        polygons: bool = False,
        **kwargs: Any,
    ) -> None:
        self.split = split
        self.polygons = polygons
        self.label_report: dict[str, list[str]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    @property
    def _title(self) -> str:
        return f'{self.ann_file} ({self.split})'

    def _note(self, message: str) -> None:
        print_log(f'{self._title}: {message}', logger='current', level=logging.INFO)

    def _check_classes(self) -> None:
        self._check_ann_file()
        content = read_data_yaml(self.ann_file)
        names = content['classes']
        given = self._metainfo.setdefault('classes', names)
        super()._check_classes()
        if tuple(given) != names:
            raise UserError(
                f'they are {show_classes(names)}, the config has '
                f'{show_classes(given)}. Write ' + write_classes(names),
                file=self.ann_file,
                line=content['lines']['names'],
                key='names',
            )
        self._metainfo['classes'] = names

    def _read_data_list(self) -> list[dict]:
        content = read_data_yaml(self.ann_file)
        if 'download' in content['lines']:
            self._note('download: is not run')
        sources = find_sources(self.ann_file, self.split, self.data_root)
        bases = list_bases(self.ann_file, content['path'], self.data_root)
        counts = Counter(p for source in sources for p in find_images(source, bases))
        first = Path(sources[0])
        # Train and val may be two lists of one folder's images.
        of_list = f'.{Path(self.image_list).stem}' if self.image_list else ''
        scan = scan_images(
            sorted(self._keep_listed(counts)),
            len(content['classes']),
            first.with_name(f'{first.name}.{self.split}{of_list}.mmnextvit-cache.json'),
            f'Scanning {Path(self.ann_file).name} ({self.split})',
        )
        settle(describe_unusable(scan, self._title), self.skip_broken)
        settle(describe_broken_lines(scan.records, self._title), self.skip_broken)
        if self.polygons:
            settle(describe_boxes(scan.records, self._title), self.skip_broken)
        settle(describe_unlabelled(scan.records, self._title), self.test_mode)
        settle(describe_pixels(scan.records, self._title), self.test_mode)
        samples = [
            build_sample(number, path, record)
            for number, (path, record) in enumerate(scan.records.items())
        ]
        repeated = [path for path, count in counts.items() if count > 1]
        self._report(samples, repeated, find_unlabelled(scan.records))
        return [sample.info for sample in samples]

    def _report(
        self, samples: list[Sample], repeated: list[str], unlabelled: list[str]
    ) -> None:
        """Says in one warning what is odd, and in one line what there is."""
        for fault, place in (d for sample in samples for d in sample.dropped):
            self.box_faults[fault].append(place)
        for remark, place in (r for sample in samples for r in sample.remarks):
            self.label_report[remark].append(place)
        self.label_report['images listed twice, used once'] += repeated
        remarks = [
            f'{len(places)} {remark}: {first_few(places)}'
            for remark, places in self.label_report.items()
            if places
        ]
        if remarks:
            warn(f'{self._title}: {"; ".join(remarks)}')
        self.label_report['images without a label file'] += unlabelled
        self._note(count_content(samples, unlabelled))

    def filter_data(self) -> list[dict]:
        if self.test_mode:
            return self._check_filtered(self.data_list)
        cfg = self.filter_cfg or {}
        known = {k: cfg[k] for k in ('filter_empty_gt', 'min_size') if k in cfg}
        return self._check_filtered(filter_samples(self.data_list, **known))
