"""Data sets whose boxes stand in a CSV file, one on a row."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.errors import UserError, naming_file
from ..utils.messages import show
from .checks import find_box_fault
from .class_names import check_names
from .csv_rows import BrokenRow, Row, Table, parse_csv
from .faults import Fault, describe_broken, describe_broken_lines, settle
from .files import is_local, read_bytes
from .images import Size, measure_images
from .own_data import OwnDataMixin, count_content
from .places import choose_way, follow

REPEATED = 'repeated rows (dropped)'


def find_wrong_sizes(rows: Iterable[Row]) -> list[BrokenRow]:
    """Rows that say another size of their image than the first that says one does."""
    first: dict[str, tuple[Size, int]] = {}
    wrong = []
    for row in rows:
        if row.size is None:
            continue
        size, line = first.setdefault(row.file, (row.size, row.line))
        if row.size != size:
            reason = (
                f'the image is {row.size[0]} x {row.size[1]} pixels here, but '
                f'{size[0]} x {size[1]} in line {line}'
            )
            wrong.append(BrokenRow(row.line, reason, row.file))
    return wrong


def find_repeated(rows: Iterable[Row]) -> set[int]:
    """Lines of rows that say of one image what an earlier row says."""
    lines: dict[tuple, int] = {}
    for row in rows:
        if row.box is not None:
            lines.setdefault((row.file, row.name, *row.box), row.line)
    first = set(lines.values())
    return {row.line for row in rows if row.box is not None and row.line not in first}


def describe_fractions(rows: Sequence[Row], ann_file: str) -> Fault | None:
    """Of values that are fractions of the image, if they are on every row."""
    boxes = [(row.line, row.box) for row in rows if row.box is not None]
    if not boxes or not all(0 <= side <= 1 for _, box in boxes for side in box):
        return None
    line, box = boxes[0]
    message = (
        'no usable box: values are pixels, but they look like fractions of width and '
        f'height, as {show(box)}: multiply them by these'
    )
    error = UserError(message, file=ann_file, line=line)
    return Fault(error, str(error))


class VerifiedCSVMixin(OwnDataMixin):
    """A dataset of boxes in a CSV file; mix it in before ``BaseDetDataset``.

    `parse_csv` says which tables are read. Rows are gathered by image; an image that
    no row names is not part of the data set. A row that cannot be read is an error
    that names file and line; with ``skip_broken`` it is dropped with a warning. Rows
    that are repeated are dropped with a warning, and so are boxes of zero or negative
    size, outside of their image, NaN or infinite. Sizes of images that the file does
    not say are read from the images.

    Args:
        ann_file: The CSV file, below ``data_root`` unless absolute.
        data_prefix: ``img`` is the folder that names of images count from.
        metainfo: Its ``classes`` are names that the file has. A class that is never met
            is an error if unknown names are met, and a warning otherwise.

    Attributes:
        row_report: ``file:line`` of rows, by what there is to say.

    Raises:
        MissingFileError: The file or images are missing.
        UserError: The file is no table of boxes, rows are broken, or it has other
            names than the classes.
        BrokenImageError: Files are no images.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.row_report: dict[str, list[str]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    def _read_table(self) -> Table:
        with naming_file(self.ann_file):
            return parse_csv(read_bytes(self.ann_file, self.backend_args))

    def list_names(self) -> list[str]:
        """The names that boxes have, whatever the classes are."""
        return sorted({row.name for row in self._read_table().rows if row.name})

    def _read_data_list(self) -> list[dict]:
        table = self._read_table()
        files = [*(row.file for row in table.rows), *(row.file for row in table.broken)]
        paths = self._find_paths(files)
        images = set(self._keep_listed(paths.values()))
        listed = [row for row in table.rows if paths[row.file] in images]
        wrong = find_wrong_sizes(listed)
        broken = [
            UserError(row.reason, file=self.ann_file, line=row.line)
            for row in sorted([*table.broken, *wrong])
            if not row.file or paths[row.file] in images
        ]
        settle(describe_broken_lines(broken, self.ann_file), self.skip_broken)
        left_out = {row.line for row in wrong}
        rows = [row for row in listed if row.line not in left_out]
        settle(describe_fractions(rows, self.ann_file), self.test_mode)
        self._check_names(rows, table.rows)
        repeated = find_repeated(rows)
        groups: dict[str, list[Row]] = {}
        for row in rows:
            if row.line not in repeated:
                groups.setdefault(paths[row.file], []).append(row)
        data_list = self._build_samples(groups)
        self.row_report[REPEATED] += [self._locate(line) for line in sorted(repeated)]
        self._warn_of(self.row_report)
        self._note(count_content(data_list))
        return data_list

    def _locate(self, line: int) -> str:
        return f'{self.ann_file}:{line}'

    def _find_paths(self, names: Iterable[str]) -> dict[str, str]:
        """Where each image lies, by what the file calls it; nowhere without a name."""
        folder = self.data_prefix.get('img', self.data_root or '')
        known = list(dict.fromkeys(filter(None, names)))
        if not is_local(folder, self.backend_args):
            return {name: os.path.join(folder, name) for name in known}
        way = choose_way(known, [folder])
        return {name: follow(name, *way) for name in known}

    def _check_names(self, rows: Iterable[Row], all_rows: Iterable[Row]) -> None:
        """Of the images that are used, where others may have the classes too."""
        counts = Counter(row.name for row in rows if row.name is not None)
        known = {row.name for row in all_rows}
        check_names(
            counts,
            self._metainfo['classes'],
            self.ann_file,
            lambda names: [name for name in names if name not in known],
        )

    def _build_samples(self, groups: Mapping[str, list[Row]]) -> list[dict]:
        stated = {path: _find_size(rows) for path, rows in groups.items()}
        unsized = [path for path, size in stated.items() if size is None]
        missing = set(self._find_missing(unsized) if unsized else ())
        sizes, broken = measure_images(
            [path for path in unsized if path not in missing],
            f'Measuring the images of {Path(self.ann_file).name}',
            self.backend_args,
        )
        settle(describe_broken(broken, len(groups)), self.skip_broken)
        labels = {name: n for n, name in enumerate(self._metainfo['classes'])}
        data_list: list[dict] = []
        for path in groups:
            if path in broken:
                continue
            # Of a missing image, which is another check's, the size is unknown.
            size = stated[path] or sizes.get(path)
            width, height = size or (0, 0)
            data = dict(
                img_path=path,
                img_id=len(data_list),
                width=width,
                height=height,
                size_measured=path in sizes,
                instances=self._build_instances(groups[path], size, labels),
            )
            data_list.append(data)
        return data_list

    def _build_instances(
        self, rows: Iterable[Row], size: Size | None, labels: Mapping[str, int]
    ) -> list[dict]:
        """The boxes of the classes, but for those that are of no use."""
        instances = []
        for row in rows:
            if row.box is None or row.name is None or row.name not in labels:
                continue
            fault = find_box_fault(row.box, *size) if size else None
            if fault:
                self.box_faults[fault].append(self._locate(row.line))
                continue
            label = labels[row.name]
            instances.append(dict(bbox=row.box, bbox_label=label, ignore_flag=0))
        return instances


def _find_size(rows: Iterable[Row]) -> Size | None:
    return next((row.size for row in rows if row.size), None)
