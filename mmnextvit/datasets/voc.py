"""Pascal VOC's annotation files, checked while MMDetection reads them."""

import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

from mmengine import fileio
from PIL import Image

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few
from .checks import VerifiedDataMixin, find_box_fault, warn, write_classes
from .mmdet_bases import XMLDataset


def read_boxes(root: ET.Element) -> list[tuple[ET.Element, str, list[float]]]:
    """The objects of an annotation, with their names and boxes (x1, y1, x2, y2).

    An object without a name has an empty one.

    Raises:
        AttributeError: An object has no box.
        ValueError: A side is no number.
    """
    return [
        (item, item.findtext('name', ''), _read_box(item))
        for item in root.findall('object')
    ]


def _read_box(item: ET.Element) -> list[float]:
    box: Any = item.find('bndbox')
    return [float(box.find(s).text) for s in ('xmin', 'ymin', 'xmax', 'ymax')]


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
        ids = fileio.list_from_file(self.ann_file, backend_args=self.backend_args)
        if not any(ids):
            raise UserError('the annotation file is empty', file=self.ann_file)
        missing = self._find_missing([os.path.join(root, f'{i}.xml') for i in ids])
        if missing:
            raise MissingFileError(
                f'{len(missing)} of the {len(ids)} annotation files that '
                f'{self.ann_file} names are missing: {first_few(missing)}. Set '
                f'data_root (now {self.data_root!r}), data_prefix or ann_subdir '
                'of the dataset'
            )

    def load_data_list(self) -> list[dict]:
        data_list = super().load_data_list()
        classes = self._metainfo['classes']
        unmet = [name for name in classes if name not in self._name_counts]
        unknown = {n: c for n, c in self._name_counts.items() if n not in classes}
        counts = ', '.join(f'{name} ({n})' for name, n in unknown.items())
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
        try:
            data = super().parse_data_info(img_info)
        except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
            line = error.position[0] if isinstance(error, ET.ParseError) else None
            raise UserError(
                f'the file is no Pascal VOC annotation: {error}', file=path, line=line
            ) from error
        if data['width'] <= 0 or data['height'] <= 0:  # some tools write 0
            with Image.open(data['img_path']) as image:
                data['width'], data['height'] = image.size
        kept = []
        for instance in data['instances']:
            fault = find_box_fault(instance['bbox'], data['width'], data['height'])
            if fault:
                self.box_faults[fault].append(os.path.basename(path))
            else:
                kept.append(instance)
        data['instances'] = kept
        return data

    def _parse_instance_info(
        self, raw_ann_info: 'ET.ElementTree[ET.Element]', **kwargs: Any
    ) -> list[dict]:
        root = raw_ann_info.getroot()
        objects = read_boxes(root)
        self._name_counts.update(name for _, name, _ in objects)
        endless = []  # XMLDataset would make integers of them
        for item, _, box in objects:
            if not all(map(math.isfinite, box)):
                root.remove(item)
                endless.append(dict(bbox=box))
        return super()._parse_instance_info(raw_ann_info, **kwargs) + endless
