"""Formats that are not read, known by name, and how to convert each to one that is."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from ..utils.errors import UserError
from ..utils.messages import first_few
from .locate import read_split
from .tree import Tree, read_head

FIRST = 20  # files of a folder that are looked into
HEAD = 1 << 14  # bytes of each
MAX_LOOKS = 1000  # files of a suffix
# What holds annotations, of some format or other.
ANNOTATIONS = ('.json', '.xml', '.csv', '.jsonl', '.parquet', '.yaml', '.yml')

COCO = 'Export it again as COCO'
DATUM = (
    'Convert it in an environment of its own: pip install "datumaro[cli]", then '
    'datum convert -i FOLDER -if {} -f coco -o NEW_FOLDER -- --save-media'
)
NUMBER = r'-?\d[\d.eE+-]*'


class Format(NamedTuple):
    """A format and what it is known by.

    Attributes:
        name: What its users call it.
        way: How to convert it, as a sentence without its end.
        named: What the names of its files match, in lower case.
        suffix: Of the files that are looked into, if their names do not tell.
        head: What such a file begins with.
    """

    name: str
    way: str
    named: str = ''
    suffix: str = ''
    head: str = ''


# The surer ones first.
FORMATS = (
    Format(
        'TFRecord',
        'Download it again as COCO or Pascal VOC, or write the images and the boxes '
        'out with TensorFlow',
        named=r'\.(tfrecords?|record)([-.]\d+-of-\d+)?$',
    ),
    Format(
        'CreateML JSON',
        'Download it again as COCO. Otherwise: ' + DATUM.format('roboflow_create_ml'),
        named=r'\.createml\.json$',
    ),
    Format(
        'CreateML JSON',
        f'{COCO} from the program that wrote it, or write its boxes, which are given '
        'by their middle, into a CSV file',
        suffix='.json',
        head=r'\s*\[.*"coordinates"\s*:\s*\{',
    ),
    Format(
        'the raw JSON of Label Studio',
        'Export the project again as "COCO with images" or "YOLO with images"',
        suffix='.json',
        head=r'\s*\[.*"(result|rectanglelabels|polygonlabels|original_width)"\s*:',
    ),
    Format(
        'Supervisely',
        'Export the project again with the app "Export to COCO" or "Export to YOLO"',
        suffix='.json',
        head=r'\s*\{.*("(classTitle|geometryType)"\s*:'
        r'|"size"\s*:\s*\{\s*"(height|width)".*"objects"\s*:'
        r'|"classes"\s*:\s*\[\s*\{.*"shape"\s*:)',
    ),
    Format(
        'OpenImages CSV',
        DATUM.format('open_images'),
        suffix='.csv',
        head=r'ImageID,.*LabelName,.*XMin',
    ),
    Format(
        'VIA CSV',
        'Open it in VIA together with the images, and export the annotations as JSON',
        suffix='.csv',
        head=r'#?\s*filename,file_size,file_attributes,region_count',
    ),
    Format(
        'a project of VIA 3',
        f'{COCO} from VIA, or annotate with VIA 2',
        suffix='.json',
        head=r'\s*\{\s*"project"\s*:.*"(pid|vid_list)"',
    ),
    Format(
        'VoTT JSON',
        'Export it again as Pascal VOC. Otherwise: ' + DATUM.format('vott_json'),
        named=r'\.vott$|^vott-json-export|-export\.json$',
    ),
    Format(
        "Datumaro's JSON",
        DATUM.format('datumaro'),
        suffix='.json',
        head=r'\s*\{.*"(dm_format_version|media_type)"\s*:',
    ),
    Format(
        'a manifest of SageMaker Ground Truth',
        'Write the images and their boxes, one JSON a line, as COCO or as a CSV file',
        named=r'\.manifest$',
    ),
    Format(
        'a data set of Hugging Face',
        'Load it with the package datasets, and write its images and boxes as COCO',
        named=r'^metadata\.jsonl$|\.(parquet|arrow)$',
    ),
    Format(
        'the NDJSON of Ultralytics',
        'Download it again as YOLO, with a data.yaml',
        named=r'\.ndjson$',
    ),
    Format(
        'WIDER FACE', DATUM.format('wider_face'), named=r'^wider_face_.*_bbx_gt\.txt$'
    ),
    Format('MOT', DATUM.format('mot_seq'), named=r'^(gt\.txt|seqinfo\.ini)$'),
    Format(
        'KITTI',
        DATUM.format('kitti_detection'),
        suffix='.txt',
        head=rf'\s*[A-Za-z]\w*( {NUMBER}){{14,15}}\s*(\n|$)',
    ),
    Format(
        'DOTA',
        'Convert it to YOLO-OBB with ultralytics (convert_dota_to_yolo_obb) and write '
        'a data.yaml: each box is then read as the upright one around it',
        suffix='.txt',
        head=rf'(imagesource:.*\n)?(gsd:.*\n)?\s*({NUMBER} ){{8}}[A-Za-z]\S*( [012])?',
    ),
    Format(
        'YOLO-OBB without names of classes',
        'Write a data.yaml with train, val and names: each box is then read as the '
        'upright one around it',
        suffix='.txt',
        head=rf'\s*\d+( {NUMBER}){{8}}\s*(\n|$)',
    ),
    Format(
        'semantic segmentation of Roboflow',
        'Download the project again as COCO Segmentation, which has boxes too',
        suffix='.csv',
        head=r'\s*Pixel Value\s*,',
    ),
    Format(
        'classes by image of Roboflow, and no boxes',
        'Draw boxes first',
        named=r'^_classes\.csv$',
    ),
)


def find_unsupported(tree: Tree) -> UserError | None:
    """The error about a folder in a format that is known but not read.

    It is to be asked where no layout was recognised, and its answer to be raised.

    Returns:
        What the format is and how to convert it; ``None`` where it is not known.
    """
    heads = {
        suffix: {path: read_head(path, HEAD) for path in _sample(tree, suffix)}
        for suffix in sorted({form.suffix for form in FORMATS if form.suffix})
    }
    for form in FORMATS:
        found = _find_named(tree, form) + _find_by_head(
            heads.get(form.suffix, {}), form
        )
        if found:
            shown = first_few(map(tree.shorten_path, found), 3)
            return UserError(
                f'the folder holds {form.name}, which is not read: {shown}. '
                f'{form.way}, and give the new folder',
                file=tree.root,
            )
    return _find_class_folders(tree)


def _find_named(tree: Tree, form: Format) -> list[str]:
    pattern = re.compile(form.named or '(?!)')
    return [f for f in tree.files if pattern.search(os.path.basename(f).lower())]


def _find_by_head(heads: Mapping[str, str], form: Format) -> list[str]:
    pattern = re.compile(form.head, re.S)
    return [path for path, head in heads.items() if pattern.match(head)]


def _sample(tree: Tree, suffix: str) -> Iterable[str]:
    """The first files of each folder, of not too many folders."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in tree.by_suffix.get(suffix, ()):
        by_folder[os.path.dirname(path)].append(path)
    firsts = (path for paths in by_folder.values() for path in paths[:FIRST])
    return islice(firsts, MAX_LOOKS)


def _find_class_folders(tree: Tree) -> UserError | None:
    """The error about images in folders by class, without any annotation."""
    if any(tree.by_suffix.get(suffix) for suffix in ANNOTATIONS):
        return None
    names = {os.path.basename(folder) for folder in tree.images_by_folder}
    names = {
        name for name in names - {os.path.basename(tree.root)} if not read_split(name)
    }
    if len(names) < 2:
        return None
    return UserError(
        f'the folder holds images in {len(names)} folders ({first_few(sorted(names))}) '
        'and no annotations, as for a classifier: there is no box to train on. Draw '
        'boxes, in CVAT, Label Studio or labelImg, and export them as COCO or YOLO',
        file=tree.root,
    )
