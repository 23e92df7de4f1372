"""Pascal VOC's annotation files, checked while they are read."""

import os
from collections import Counter
from typing import Any

from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.messages import first_few
from .checks import (
    VerifiedDataMixin,
    describe_counts,
    find_box_fault,
    warn,
    write_classes,
)
from .files import read_bytes
from .images import Size, read_image_size
from .mmdet_bases import XMLDataset
from .values import read_lines
from .voc_xml import build_instances, parse_voc


class VerifiedVOCMixin(VerifiedDataMixin, XMLDataset):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``XMLDataset``.

    A class that is never met is an error if unknown names are met, and a warning
    otherwise: a small validation set may lack it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name_counts: Counter[str] = Counter()
        super().__init__(*args, **kwargs)

    def _check_ann_file(self) -> None:
        super()._check_ann_file()
        root = os.path.join(self.sub_data_root, self.ann_subdir)
        ids = self._read_ids()
        if not ids:
            raise UserError('the annotation file is empty', file=self.ann_file)
        missing = self._find_missing([os.path.join(root, f'{i}.xml') for i in ids])
        if missing:
            raise MissingFileError(
                f'{len(missing)} of the {len(ids)} annotation files that '
                f'{self.ann_file} names are missing: {first_few(missing)}. Set '
                f'data_root (now {self.data_root!r}), data_prefix or ann_subdir '
                'of the dataset'
            )

    def _read_ids(self) -> list[str]:
        with naming_file(self.ann_file):
            return read_lines(read_bytes(self.ann_file, self.backend_args))

    def _read_data_list(self) -> list[dict]:
        return [
            self.parse_data_info(
                dict(
                    img_id=name,
                    file_name=os.path.join(self.img_subdir, f'{name}.jpg'),
                    xml_path=os.path.join(
                        self.sub_data_root, self.ann_subdir, f'{name}.xml'
                    ),
                )
            )
            for name in self._read_ids()
        ]

    def load_data_list(self) -> list[dict]:
        data_list = super().load_data_list()
        classes = self._metainfo['classes']
        unmet = [name for name in classes if name not in self._name_counts]
        unknown = {n: c for n, c in self._name_counts.items() if n not in classes}
        counts = describe_counts(unknown)
        if unmet and unknown:
            raise UserError(
                'the annotations never name the class '
                f'{first_few(map(repr, unmet))} of the config, but they name {counts}: '
                f'write {write_classes(sorted(self._name_counts))}',
                file=self.ann_file,
            )
        if unmet:
            warn(f'{self.ann_file}: no box of the class {first_few(map(repr, unmet))}')
        if unknown:
            warn(
                f'{self.ann_file}: boxes whose names are no classes of the config are '
                f'ignored: {counts}'
            )
        return data_list

    def parse_data_info(self, img_info: dict) -> dict:
        path = img_info['xml_path']
        image = os.path.join(self.sub_data_root, img_info['file_name'])
        with naming_file(path):
            annotation = parse_voc(read_bytes(path, self.backend_args))
        self._name_counts.update(item.name for item in annotation.objects)
        labels = {name: label for label, name in enumerate(self._metainfo['classes'])}
        instances = build_instances(annotation.objects, labels, self.bbox_min_size)
        width, height = annotation.size or self._measure(image)
        faults = [find_box_fault(box['bbox'], width, height) for box in instances]
        for fault in filter(None, faults if width else ()):
            self.box_faults[fault].append(os.path.basename(path))
        return dict(
            img_path=image,
            img_id=img_info['img_id'],
            xml_path=path,
            width=width,
            height=height,
            size_measured=annotation.size is None,
            instances=[box for box, fault in zip(instances, faults) if not fault],
        )

    def _measure(self, image: str) -> Size:
        """An image's size; 0 where it cannot be read, as what reads it will say."""
        try:
            return read_image_size(image, self.backend_args)
        except (OSError, UserError):
            return 0, 0
