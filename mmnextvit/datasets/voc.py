"""Pascal VOC's annotation files, checked while they are read."""

import contextlib
import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import get_rank
from rich.progress import track

from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.messages import first_few, show
from .checks import (
    VerifiedDataMixin,
    find_box_fault,
)
from .class_names import check_names
from .data_yaml import SUFFIXES
from .faults import read_all
from .files import find_files_below, is_local, read_bytes
from .images import Size, read_image_size
from .mmdet_bases import XMLDataset
from .values import read_lines
from .voc_xml import VOCAnnotation, build_instances, parse_voc

MANY = 1000  # annotations that take long enough for a progress bar
# A line of VOC's lists of one class: an image's name, and whether the class is in it.
CLASS_LINE = re.compile(r'\S.*\s(-1|0|1)')


class Entry(NamedTuple):
    """An image of a list or a folder of annotations.

    Attributes:
        name: It has no suffix, and begins with the folders below that of all images.
        xml: Its annotation file.
    """

    name: str
    xml: str


def index_names(folder: str) -> dict[str, list[str]]:
    """The images directly in a folder, by their names with and without suffix."""
    found = defaultdict(list)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            if name.lower().endswith(SUFFIXES):
                found[name].append(name)
                found[os.path.splitext(name)[0]].append(name)
    return found


def _has_annotation(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, f'{name}.xml'))


def choose_image(
    name: str,
    stated: Callable[[], str],
    known: Mapping[str, Sequence[str]],
    is_taken: Callable[[str], bool],
) -> str:
    """The file of an annotation's image, or the one that there should be.

    It bears the annotation's name, with any suffix. Of several such files it is the one
    that the annotation states. Where there is none, it is the file that the annotation
    states, with any suffix, unless that is another annotation's.

    Args:
        name: The annotation file's, without its suffix.
        stated: The image's name as the annotation has it, which is read only if needed.
        known: What `index_names` gives.
        is_taken: Whether an image, given without suffix, has an annotation of its name.
    """
    same = known.get(name, ())
    if len(same) == 1:
        return same[0]
    wanted = stated()
    if same:
        return next((n for n in (wanted, f'{name}.jpg') if n in same), same[0])
    found = known.get(wanted) or known.get(os.path.splitext(wanted)[0], ())
    free = [n for n in found if not is_taken(os.path.splitext(n)[0])]
    if free:
        return free[0]
    suffix = os.path.splitext(wanted)[1]
    return name + (suffix if suffix.lower() in SUFFIXES else '.jpg')


class VerifiedVOCMixin(VerifiedDataMixin, XMLDataset):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``XMLDataset``.

    An image may have any suffix; `choose_image` says which one an annotation is of. A
    class that is never met is an error if unknown names are met, and a warning
    otherwise: a small validation set may lack it. With an ``image_list`` it is an error
    only if no other image has it either.

    Args:
        ann_file: A list of names, one on a line, whose annotations lie in
            ``ann_subdir``; or a folder, whose annotations are all read, with those in
            folders below it.
        ann_subdir: Folder of the annotations of a list.
        img_subdir: Folder of the images; folders below it are those of the
            annotations.
        data_prefix: Both folders lie below its ``sub_data_root``, which is
            ``data_root`` unless set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name_counts: Counter[str] = Counter()
        kwargs['data_prefix'] = dict(sub_data_root='') | (
            kwargs.get('data_prefix') or {}
        )
        super().__init__(*args, **kwargs)

    def _check_ann_file(self) -> None:
        if not os.path.isdir(self.ann_file):
            super()._check_ann_file()

    def _list_entries(self) -> list[Entry]:
        """What the list or the folder names.

        Raises:
            UserError: It is empty, or no list of names.
        """
        if os.path.isdir(self.ann_file):
            files = find_files_below(os.path.normpath(self.ann_file), ('.xml',))
            if not files:
                raise UserError('the folder holds no .xml file', file=self.ann_file)
            names = (os.path.relpath(file, self.ann_file)[:-4] for file in files)
            return list(map(Entry, names, files))
        with naming_file(self.ann_file):
            lines = read_lines(read_bytes(self.ann_file, self.backend_args))
        if not lines:
            raise UserError('the annotation file is empty', file=self.ann_file)
        folder = os.path.join(self.sub_data_root, self.ann_subdir)
        entries = [Entry(name, os.path.join(folder, f'{name}.xml')) for name in lines]
        return list(map(self._leave_out_suffix, entries))

    def _leave_out_suffix(self, entry: Entry) -> Entry:
        """An entry of a list that has the names of images or annotation files."""
        name, suffix = os.path.splitext(entry.name)
        if suffix.lower() not in ('.xml', *SUFFIXES) or os.path.exists(entry.xml):
            return entry
        xml = os.path.join(self.sub_data_root, self.ann_subdir, f'{name}.xml')
        return Entry(name, xml) if os.path.exists(xml) else entry

    def _find_images(self, entries: Sequence[Entry]) -> list[str]:
        """The path of each entry's image below ``sub_data_root``."""
        if not is_local(self.ann_file, self.backend_args):
            return [os.path.join(self.img_subdir, f'{e.name}.jpg') for e in entries]
        root = os.path.join(self.sub_data_root, self.img_subdir)
        index = functools.cache(index_names)
        images = []
        for name, xml in entries:
            folder, stem = os.path.split(name)
            image = choose_image(
                stem,
                functools.partial(self._read_file_name, xml),
                index(os.path.join(root, folder)),
                functools.partial(_has_annotation, os.path.dirname(xml)),
            )
            images.append(os.path.join(self.img_subdir, folder, image))
        return images

    def _name_places(self) -> str:
        return f'img_subdir (now {self.img_subdir!r}), {super()._name_places()}'

    def _read_file_name(self, xml: str) -> str:
        return self._parse_if_whole(xml).file_name

    def _parse_if_whole(self, xml: str) -> VOCAnnotation:
        """What an annotation says; nothing where it cannot be read."""
        try:
            return parse_voc(read_bytes(xml, self.backend_args))
        except (OSError, UserError):
            return VOCAnnotation(None, [], '')

    def _read_data_list(self) -> list[dict]:
        entries = self._list_entries()
        images = self._find_images(entries)
        paths = [os.path.join(self.sub_data_root, image) for image in images]
        listed = set(self._keep_listed(paths))
        used = [
            (entry, image)
            for entry, image, path in zip(entries, images, paths)
            if path in listed
        ]
        self._check_annotations([entry for entry, _ in used])
        progress = track(
            used,
            description=f'Reading the annotations of {Path(self.ann_file).name}',
            disable=get_rank() != 0 or len(used) < MANY,
        )
        infos = (
            dict(img_id=entry.name, file_name=image, xml_path=entry.xml)
            for entry, image in progress
        )
        return read_all(self.parse_data_info, infos)

    def _check_annotations(self, entries: Sequence[Entry]) -> None:
        """Raises where annotation files are missing."""
        missing = self._find_missing([entry.xml for entry in entries])
        if not missing:
            return
        names = [entry.name for entry in entries]
        if len(missing) == len(names) and all(map(CLASS_LINE.fullmatch, names)):
            plain = os.path.basename(self.ann_file).rpartition('_')[2]
            raise UserError(
                f'this is a list of one class, with 1, 0 or -1 behind each name, as in '
                f'{show(names[0])}: set ann_file of the dataset to a plain list of '
                f'names, as {plain} in that folder is one',
                file=self.ann_file,
            )
        raise MissingFileError(
            f'{len(missing)} of the {len(names)} annotation files that '
            f'{self.ann_file} names are missing: {first_few(missing)}. Set '
            f'data_root (now {self.data_root!r}), data_prefix or ann_subdir '
            'of the dataset'
        )

    def list_names(self) -> list[str]:
        """The names that boxes have, whatever the classes are."""
        self._read_data_list()
        return sorted(self._name_counts)

    def load_data_list(self) -> Sequence[dict]:
        data_list = super().load_data_list()
        check_names(
            self._name_counts,
            self._metainfo['classes'],
            self.ann_file,
            self._leave_out_known,
        )
        return data_list

    def _leave_out_known(self, names: Sequence[str]) -> list[str]:
        """The names that images which are not listed do not have either."""
        unknown = set(names)
        if self.image_list is not None:
            for entry in self._list_entries():
                if not unknown:
                    break
                objects = self._parse_if_whole(entry.xml).objects
                unknown -= {item.name for item in objects}
        return [name for name in names if name in unknown]

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
