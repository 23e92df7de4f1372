"""Small folders as annotation tools leave them, all of the images of `layouts`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.helpers.layouts import (
    CLASSES,
    PLAIN,
    SPLITS,
    TRUTH,
    Expected,
    Names,
    expect,
    name_builders,
    write_images,
    write_text,
)

TRAIN_VAL = {split: SPLITS[split] for split in ('train', 'val')}


# -------------------------------------------------------------------------- pieces


def write_cvat(
    path: Path,
    names: Names,
    numbers: Iterable[int],
    more: Mapping[int, str] = {},
    meta: str = '<task><id>7</id><name>pets</name>{labels}</task>',
    extra: Mapping[int, Sequence[str]] = {},
) -> None:
    """CVAT's XML, one element a line; the images begin on line 6.

    Args:
        path: Of the file.
        names: Of the files of all images.
        numbers: Of the images.
        more: Further attributes of images, by number.
        meta: What ``<meta>`` holds.
        extra: Further elements of images, by number.
    """
    labels = ''.join(f'<label><name>{name}</name></label>' for name in CLASSES)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<annotations>',
        '  <version>1.1</version>',
        f'  <meta>{meta.format(labels=f"<labels>{labels}</labels>")}',
        '    <dumped>2024-01-01 00:00:00.000000+00:00</dumped></meta>',
    ]
    for number in numbers:
        (width, height), boxes = TRUTH[number]
        lines.append(
            f'  <image id="{number}" name={quoteattr(names[number])} width="{width}" '
            f'height="{height}" {more.get(number, "")}>'
        )
        for name, (x1, y1, x2, y2) in boxes:
            lines.append(
                f'    <box label="{name}" source="manual" occluded="0" xtl="{x1:.2f}" '
                f'ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0">'
            )
            lines.append('      <attribute name="seen">yes</attribute></box>')
        lines += [*extra.get(number, ()), '  </image>']
    write_text(path, *lines, '</annotations>')


def list_via_images(
    names: Names, numbers: Iterable[int], key: str = 'species', version: int = 2
) -> dict:
    """The images as VIA lists them, by their names and numbers of bytes."""
    images = {}
    for number in numbers:
        regions = [
            dict(
                shape_attributes=dict(
                    name='rect', x=x1, y=y1, width=x2 - x1, height=y2 - y1
                ),
                region_attributes={key: name} if key else {},
            )
            for name, (x1, y1, x2, y2) in TRUTH[number].boxes
        ]
        images[f'{names[number]}{1000 + number}'] = dict(
            filename=names[number],
            size=1000 + number,
            regions=regions if version == 2 else dict(enumerate(regions)),
            file_attributes={},
        )
    return images


def wrap_via_project(images: dict, folder: str = '') -> dict:
    """A whole project of VIA 2."""
    options = {name: name.upper() for name in CLASSES}
    return dict(
        _via_settings=dict(ui={}, core=dict(default_filepath=folder)),
        _via_img_metadata=images,
        _via_attributes=dict(
            region=dict(species=dict(type='dropdown', options=options)), file={}
        ),
        _via_data_format_version='2.0.10',
        _via_image_id_list=list(images),
    )


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')


def list_labelme_shapes(number: int) -> list[dict]:
    """The boxes of an image as LabelMe has them, their corners in any order."""
    shapes = []
    for k, (name, (x1, y1, x2, y2)) in enumerate(TRUTH[number].boxes):
        corners = [[x1, y1], [x2, y2]] if (number + k) % 2 else [[x2, y1], [x1, y2]]
        shapes.append(
            dict(
                label=name,
                points=corners if k else corners[::-1],
                group_id=None,
                description='',
                shape_type='rectangle',
                flags=dict(blurred=True),
                mask=None,
            )
        )
    return shapes


def write_labelme(
    folder: Path, names: Names, numbers: Iterable[int], images: str = ''
) -> None:
    """LabelMe's JSON files, ``images`` being the way from them to the images."""
    for number in numbers:
        width, height = TRUTH[number].size
        write_json(
            (folder / names[number]).with_suffix('.json'),
            dict(
                version='5.5.0',
                flags=dict(checked=False),
                shapes=list_labelme_shapes(number),
                imagePath=images + names[number],
                imageData=None,
                imageHeight=height,
                imageWidth=width,
            ),
        )


# ------------------------------------------------------------------------ builders


def build_cvat_xml(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images', names, range(8))
    write_cvat(root / 'annotations.xml', names, range(8))
    return expect('CVAT XML', names, None, CLASSES, (1, 2))


def build_cvat_xml_project(root: Path, names: Names = PLAIN) -> Expected:
    """A project with subsets, whose images lie in folders of their names."""
    subsets = dict(train='Train', val='Validation', test='Test')
    more = {}
    for split, numbers in SPLITS.items():
        write_images(root / 'images' / subsets[split], names, numbers)
        more |= dict.fromkeys(numbers, f'subset="{subsets[split]}" task_id="3"')
    meta = '<project><id>1</id>{labels}<tasks><task><id>3</id><name>all</name></task>'
    write_cvat(
        root / 'annotations.xml', names, range(8), more, meta + '</tasks></project>'
    )
    return expect('CVAT XML', names, SPLITS, CLASSES, (1, 2))


def build_cvat_xml_tasks(root: Path, names: Names = PLAIN) -> Expected:
    """A project whose tasks are called after splits, and images elsewhere."""
    write_images(root / 'raw' / 'all pictures', names, range(6))
    task = '<task><id>{}</id><name>{}</name><subset></subset></task>'
    tasks = task.format(3, 'pets train') + task.format(4, 'pets val')
    more = {n: f'task_id="{3 if n < 4 else 4}"' for n in range(6)}
    meta = f'<project>{{labels}}<tasks>{tasks}</tasks></project>'
    write_cvat(root / 'annotations.xml', names, range(6), more, meta)
    return expect('CVAT XML', names, TRAIN_VAL, CLASSES, (1, 2))


def build_cvat_xml_jobs(root: Path, names: Names = PLAIN) -> Expected:
    """Two jobs, each with an XML file, among the images."""
    write_images(root, names, range(8))
    meta = '<job><id>5</id>{labels}</job>'
    write_cvat(root / 'job_1.xml', names, range(3), meta=meta)
    write_cvat(root / 'job_2.xml', names, range(3, 8), meta=meta)
    return expect('CVAT XML', names, None, CLASSES, (1, 2))


def build_via_export(root: Path, names: Names = PLAIN) -> Expected:
    for split, numbers in TRAIN_VAL.items():
        write_images(root / split, names, numbers)
        images = list_via_images(names, numbers)
        write_json(root / split / 'via_region_data.json', images)
    return expect('VIA JSON', names, TRAIN_VAL, CLASSES, (1, 2))


def build_via_version_1(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'pictures', names, range(8))
    images = list_via_images(names, range(8), 'what is it', version=1)
    write_json(root / 'via_region_data.json', images)
    return expect('VIA JSON', names, None, CLASSES, (1, 2))


def build_via_project(root: Path, names: Names = PLAIN) -> Expected:
    """A project, and what was exported from it."""
    write_images(root / 'raw', names, range(8))
    images = list_via_images(names, range(8))
    write_json(root / 'via_project_1Jan2024.json', wrap_via_project(images, './raw/'))
    write_json(root / 'via_export_json.json', images)
    return expect('VIA JSON', names, None, CLASSES, (1, 2))


def build_labelme(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root, names, range(8))
    write_labelme(root, names, range(8))
    return expect('LabelMe JSON', names, None, CLASSES, (1, 2))


def build_labelme_splits(root: Path, names: Names = PLAIN) -> Expected:
    """JSON files beside folders of images, to which Windows has named the way."""
    for split, numbers in TRAIN_VAL.items():
        write_images(root / 'images' / split, names, numbers)
        folder = root / 'labels' / split
        write_labelme(folder, names, numbers, f'..\\..\\images\\{split}\\')
    return expect('LabelMe JSON', names, TRAIN_VAL, CLASSES, (1, 2))


def build_labelme_moved(root: Path, names: Names = PLAIN) -> Expected:
    """Images that lie elsewhere than they were labelled, and other JSON."""
    write_images(root / 'photos', names, range(8))
    write_labelme(root / 'json', names, range(8), 'C:\\Users\\me\\test\\old\\')
    write_text(root / 'json' / 'labels.json', '["cat", "dog"]')
    return expect('LabelMe JSON', names, None, CLASSES, (1, 2))


# All of them, by name. Each gets a folder, which need not exist, and names of images.
TOOL_BUILDERS = name_builders(
    build_cvat_xml,
    build_cvat_xml_project,
    build_cvat_xml_tasks,
    build_cvat_xml_jobs,
    build_via_export,
    build_via_version_1,
    build_via_project,
    build_labelme,
    build_labelme_splits,
    build_labelme_moved,
)
