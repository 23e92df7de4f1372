"""Annotations of CVAT, VIA and LabelMe, read as the COCO that they are converted to."""

import copy
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from mmnextvit.datasets.coco import parse_coco
from mmnextvit.datasets.samples import Sample, list_samples
from mmnextvit.folder_import.coco_files import build_coco
from mmnextvit.folder_import.conversions import CONVERSIONS, parse_each
from mmnextvit.folder_import.cvat_xml import parse_cvat
from mmnextvit.folder_import.entries import Entry, list_classes
from mmnextvit.folder_import.labelme_json import parse_labelme
from mmnextvit.folder_import.reading import Reading
from mmnextvit.folder_import.tree import read_tree
from mmnextvit.folder_import.via_json import parse_via
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmyolo.registry import DATASETS
from pycocotools import mask as pycocotools_mask

from tests.helpers.layouts import BUILDERS, ODD, PLAIN, TRUTH, write_images, write_text
from tests.helpers.tool_layouts import (
    TOOL_BUILDERS,
    list_via_images,
    wrap_via_project,
    write_cvat,
    write_json,
    write_labelme,
)

LAYOUTS = {conversion.layout: conversion for conversion in CONVERSIONS}


def convert(root: Path, layout: str, out: str = 'out/my') -> Reading:
    """Converts ``root / 'data'``, which is to be recognised as the layout."""
    conversion = LAYOUTS[layout]
    tree = read_tree(root / 'data')
    files = conversion.recognise(tree)
    assert files
    return conversion.convert(tree, files, root / out)


def build(reading: Reading, split: str) -> BaseDataset:
    return DATASETS.build(
        dict(
            reading.datasets[split],
            metainfo=dict(classes=reading.classes),
            pipeline=[dict(type='LoadImageFromFile')],
            test_mode=True,
            serialize_data=False,
        )
    )


def read_samples(reading: Reading, split: str = 'train') -> dict[str, Sample]:
    """What our dataset reads of a split, by the names of the images."""
    dataset = build(reading, split)
    assert dataset[0]['img'].shape[:2] == dataset[0]['ori_shape']
    samples = list_samples(map(dataset.get_data_info, range(len(dataset))))
    return {Path(sample.path).name: sample for sample in samples}


def read_content(reading: Reading, split: str = 'train') -> dict:
    return json.loads(Path(reading.datasets[split]['ann_file']).read_bytes())


def list_files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


# -------------------------------------------------------------------- whole folders


@pytest.mark.slow
@pytest.mark.parametrize('names', [PLAIN, ODD], ids=['plain', 'odd'])
@pytest.mark.parametrize('name', TOOL_BUILDERS)
def test_layout_is_read_as_it_was_made(tmp_path, name, names):
    expected = TOOL_BUILDERS[name](tmp_path / 'data', names)
    before = list_files(tmp_path / 'data')
    for layout, conversion in LAYOUTS.items():
        found = conversion.recognise(read_tree(tmp_path / 'data'))
        assert bool(found) == (layout == expected.layout)
    reading = convert(tmp_path, expected.layout)
    assert reading.layout == expected.layout
    assert (reading.classes, reading.class_ids) == (expected.classes, (1, 2))
    assert reading.datasets.keys() == expected.splits.keys()
    for split in expected.splits:
        content = read_content(reading, split)
        assert [c['supercategory'] for c in content['categories']] == ['', '']
        assert content['licenses'] == []
        samples = read_samples(reading, split)
        truth = expected.list_boxes(split)
        assert samples.keys() == truth.keys()
        for file, boxes in truth.items():
            labels = [reading.classes[label] for label in samples[file].labels]
            assert labels == [label for label, _ in boxes]
            wanted = np.array([box for _, box in boxes])
            np.testing.assert_allclose(samples[file].boxes, wanted, atol=0.5)
    assert list_files(tmp_path / 'data') == before
    written = {Path(cfg['ann_file']) for cfg in reading.datasets.values()}
    assert written == {tmp_path / f'out/my_{split}.json' for split in expected.splits}
    assert set(list_files(tmp_path / 'out')) == written


@pytest.mark.parametrize('name', BUILDERS)
def test_layouts_of_our_readers_are_none_to_convert(tmp_path, name):
    BUILDERS[name](tmp_path / 'data')
    tree = read_tree(tmp_path / 'data')
    assert not any(conversion.recognise(tree) for conversion in CONVERSIONS)


def test_nothing_is_overwritten(tmp_path):
    TOOL_BUILDERS['via_export'](tmp_path / 'data')
    (tmp_path / 'my_val.json').write_text('mine')
    before = list_files(tmp_path)
    with pytest.raises(UserError, match=r'my_val\.json exists'):
        convert(tmp_path, 'VIA JSON', 'my')
    assert list_files(tmp_path) == before


# ---------------------------------------------------------------------------- shapes

MIDDLE, RADII, ANGLE = (30, 25), (12, 6), 30
OUTLINE = [(10, 8), (30, 5), (25, 28), (12, 20)]
TURNED = cv2.boxPoints((MIDDLE, (2 * RADII[0], 2 * RADII[1]), ANGLE))
TURNS = np.linspace(0, 2 * math.pi, 100_000)
ALONG, ACROSS = np.array([[math.cos(math.pi / 6), math.sin(math.pi / 6)],
                          [-math.sin(math.pi / 6), math.cos(math.pi / 6)]])  # fmt: skip
ELLIPSE = (
    np.array(MIDDLE)
    + 12 * np.cos(TURNS)[:, None] * ALONG
    + 6 * np.sin(TURNS)[:, None] * ACROSS
)
CIRCLE = np.array([(22, 17), (38, 33)])  # opposite corners of its box

CVAT_SHAPES = {
    'box': ('<box label="cat" xtl="10" ytl="5" xbr="30" ybr="28"/>', OUTLINE, 0),
    'swapped corners': ('<box label="cat" xtl="30" ytl="28" xbr="10" ybr="5"/>',
                        OUTLINE, 0),
    'turned box': ('<box label="cat" xtl="18" ytl="19" xbr="42" ybr="31" '
                   'rotation="30.0"/>', TURNED, 288),
    'polygon': ('<polygon label="cat" points="10,8;30,5.00;25.0,28;12,20"/>',
                OUTLINE, 292.5),
    'ellipse': ('<ellipse label="cat" cx="30" cy="25" rx="12" ry="6" rotation="30"/>',
                ELLIPSE, math.pi * 72),
}  # fmt: skip
VIA_SHAPES = {
    'rect': (dict(x=10, y=5, width=20, height=23), OUTLINE, 0),
    'rect ': (dict(x='30', y='5', width=-20, height='23.0'), OUTLINE, 0),
    'circle': (dict(cx=30, cy=25, r=8), CIRCLE, math.pi * 64),
    'ellipse': (dict(cx=30, cy=25, rx=12, ry=6, theta=math.pi / 6), ELLIPSE,
                math.pi * 72),
    'polygon': (dict(all_points_x=[10, 30, 25, 12], all_points_y=[8, 5, 28, 20]),
                OUTLINE, 292.5),
}  # fmt: skip
LABELME_SHAPES = {
    'rectangle': ([[30, 5], [10, 28]], OUTLINE, 0),
    'polygon': (OUTLINE, OUTLINE, 292.5),
    '': (OUTLINE, OUTLINE, 292.5),  # of before 2019
    'circle': ([[30, 25], [30, 17]], CIRCLE, math.pi * 64),
    'rotation': (TURNED.tolist(), TURNED, 288),
}


def check_only_shape(reading: Reading, points: object, area: float) -> None:
    """That there is one box, around the points, with an outline of such an area.

    Args:
        reading: Of one image.
        points: What the box encloses.
        area: Of the outline; 0 where there is none.
    """
    points = np.array(points, float)
    (sample,) = read_samples(reading).values()
    wanted = [*points.min(0), *points.max(0)]
    np.testing.assert_allclose(sample.boxes, [wanted], atol=0.01)
    (annotation,) = read_content(reading)['annotations']
    assert ('segmentation' in annotation) == bool(area)
    if area:
        (outline,) = annotation['segmentation']
        outline = np.array(outline, np.float32).reshape(-1, 2)
        assert cv2.contourArea(outline) == pytest.approx(area, rel=0.01)
        assert annotation['area'] == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize('kind', CVAT_SHAPES)
def test_shape_of_cvat(tmp_path, kind):
    element, points, area = CVAT_SHAPES[kind]
    make_cvat(tmp_path, element)
    check_only_shape(convert(tmp_path, 'CVAT XML'), points, area)


def make_cvat(root: Path, *elements: str) -> Path:
    """A folder with an image that holds these elements, the first on line 7."""
    write_images(root / 'data', PLAIN, [0])
    path = root / 'data' / 'annotations.xml'
    write_cvat(path, PLAIN, [0], extra={0: elements})
    text = path.read_text()
    text = text[: text.index('    <box')] + text[text.index(elements[0]) :]
    path.write_text(text)
    return path


@pytest.mark.parametrize('kind', VIA_SHAPES)
def test_shape_of_via(tmp_path, kind):
    shape, points, area = VIA_SHAPES[kind]
    make_via(tmp_path, dict(name=kind.strip(), **shape))
    check_only_shape(convert(tmp_path, 'VIA JSON'), points, area)


def make_via(root: Path, *shapes: dict, attributes: object = None) -> dict:
    """A folder with an image that holds these regions; what its JSON file holds."""
    write_images(root / 'data', PLAIN, [0])
    content = list_via_images(PLAIN, [0])
    attributes = dict(species='cat') if attributes is None else attributes
    next(iter(content.values()))['regions'] = [
        dict(shape_attributes=shape, region_attributes=attributes) for shape in shapes
    ]
    write_json(root / 'data' / 'via.json', content)
    return content


@pytest.mark.parametrize('kind', LABELME_SHAPES)
def test_shape_of_labelme(tmp_path, kind):
    points, around, area = LABELME_SHAPES[kind]
    make_labelme(tmp_path, dict(label='cat', points=points, shape_type=kind))
    check_only_shape(convert(tmp_path, 'LabelMe JSON'), around, area)


def make_labelme(root: Path, *shapes: dict, **values: object) -> None:
    """A folder with an image that holds these shapes, and other values."""
    write_images(root / 'data', PLAIN, [0])
    write_labelme(root / 'data', PLAIN, [0])
    path = root / 'data' / PLAIN[0].replace('jpg', 'json')
    content = json.loads(path.read_text())
    write_json(path, {**content, 'shapes': shapes, **values})


def test_mask_of_cvat(tmp_path):
    inside = np.random.default_rng(0).random((9, 12)) < 0.5
    inside[[0, -1], 3] = inside[4, [0, -1]] = True
    runs = [0] if inside.ravel()[0] else []
    changes = np.flatnonzero(np.diff(inside.ravel())) + 1
    runs += np.diff(changes, prepend=0, append=inside.size).tolist()
    rle = ', '.join(map(str, runs))
    make_cvat(tmp_path, f'<mask label="dog" rle="{rle}" left="20" top="10" width="12" '
              'height="9"/>')  # fmt: skip
    reading = convert(tmp_path, 'CVAT XML')
    (sample,) = read_samples(reading).values()
    assert sample.boxes.tolist() == [[20, 10, 32, 19]]
    assert sample.labels.tolist() == [1]
    width, height = TRUTH[0].size
    wanted = np.zeros((height, width), bool)
    wanted[10:19, 20:32] = inside
    (annotation,) = read_content(reading)['annotations']
    code = pycocotools_mask.frPyObjects(annotation['segmentation'], height, width)
    np.testing.assert_array_equal(pycocotools_mask.decode(code), wanted)
    assert annotation['area'] == inside.sum()


def test_mask_of_labelme_covers_its_last_pixels(tmp_path):
    mask = dict(label='cat', points=[[10, 5], [29, 27]], shape_type='mask', mask='iVB')
    make_labelme(tmp_path, mask)
    check_only_shape(convert(tmp_path, 'LabelMe JSON'), [(10, 5), (30, 28)], 0)


def test_parts_of_one_object_of_labelme(tmp_path):
    parts = [
        dict(label='cat', points=OUTLINE, shape_type='polygon', group_id=1),
        dict(label='dog', points=OUTLINE, shape_type='polygon', group_id=1),
        dict(label='cat', points=[[40, 5], [45, 5], [45, 9]], group_id=1),
        dict(label='cat', points=[[0, 0], [5, 5]], shape_type='rectangle', group_id=1),
    ]
    make_labelme(tmp_path, *parts)
    (sample,) = read_samples(convert(tmp_path, 'LabelMe JSON')).values()
    boxes = [[10, 5, 45, 28], [10, 5, 30, 28], [0, 0, 5, 5]]
    assert sample.boxes.tolist() == boxes
    assert sample.labels.tolist() == [0, 1, 0]


def test_what_has_no_box_is_left_out_and_told(tmp_path):
    (box, *_), (outside, *_) = CVAT_SHAPES['box'], CVAT_SHAPES['turned box']
    make_cvat(
        tmp_path / 'cvat',
        box,
        outside.replace('/>', ' outside="1"/>'),
        '<polyline label="cat" points="1,2;3,4"/>',
        '<points label="cat" points="1,2;3,4"/>',
        '<points label="cat" points="1,2"/>',
        '<tag label="cat" source="manual"/>',
    )
    reading = convert(tmp_path / 'cvat', 'CVAT XML')
    check_only_shape(reading, OUTLINE, 0)
    told = 'left out, since they are no boxes: polyline (1), points (2)'
    assert told in reading.notes

    rect = dict(name='rect', **VIA_SHAPES['rect'][0])
    make_via(tmp_path / 'via', rect, dict(name='point', cx=1, cy=2))
    reading = convert(tmp_path / 'via', 'VIA JSON')
    check_only_shape(reading, OUTLINE, 0)
    assert 'left out, since they are no boxes: point (1)' in reading.notes

    polygon = dict(label='cat', points=OUTLINE, shape_type='polygon')
    line = dict(label='cat', points=OUTLINE, shape_type='linestrip')
    make_labelme(tmp_path / 'labelme', polygon, line)
    reading = convert(tmp_path / 'labelme', 'LabelMe JSON')
    check_only_shape(reading, OUTLINE, 292.5)
    assert 'left out, since they are no boxes: linestrip (1)' in reading.notes


# --------------------------------------------------------------------- VIA's classes


def convert_attributes(root: Path, *attributes: object) -> Reading:
    """An image of VIA with one region for each of these attributes."""
    content = make_via(root, *[dict(name='rect', x=1, y=2, width=9, height=8)] * 9)
    (image,) = content.values()
    image['regions'] = [
        region | dict(region_attributes=value)
        for region, value in zip(image['regions'], attributes)
    ]
    write_json(root / 'data' / 'via.json', content)
    return convert(root, 'VIA JSON')


def test_class_is_the_attribute_that_most_regions_have(tmp_path):
    reading = convert_attributes(
        tmp_path,
        dict(note='late', art='Katze'),
        dict(art=' Hund ', note=''),
        dict(art='Katze', note=None),
        dict(note='blurred'),
    )
    assert reading.classes == ('Hund', 'Katze')
    (sample,) = read_samples(reading).values()
    assert sample.labels.tolist() == [1, 0, 1]
    told = "the class of a region is its attribute 'art', which most have; also there: "
    assert reading.notes[1:] == (
        told + 'note (2)',
        "1 regions without 'art' are left out",
    )


@pytest.mark.parametrize(
    ('attributes', 'name'),
    [
        (dict(occluded='no', label='cat'), 'cat'),  # a name that says class
        (dict(kind='cat', occluded='no'), 'cat'),  # else the first
        (dict(kind=dict(cat=True, dog=False)), 'cat'),  # boxes to be ticked
        (dict(kind=7), '7'),
    ],
)
def test_class_of_a_region(tmp_path, attributes, name):
    assert convert_attributes(tmp_path, attributes).classes == (name,)


@pytest.mark.parametrize('attributes', [{}, None, dict(kind='')])
def test_regions_without_any_attribute_are_of_one_class(tmp_path, attributes):
    reading = convert_attributes(tmp_path, attributes, attributes)
    assert reading.classes == ('object',)
    assert len(read_samples(reading)[PLAIN[0]].boxes) == 2
    assert "no region says what it is: all are of one class, 'object'" in reading.notes


def test_class_is_the_same_attribute_in_all_files(tmp_path):
    for split, key in (('train', 'species'), ('val', 'other')):
        write_images(tmp_path / 'data' / split, PLAIN, [0, 1])
        images = list_via_images(PLAIN, [0, 1], key)
        for image in images.values():
            for region in image['regions']:
                region['region_attributes'].setdefault('species', 'cat')
        write_json(tmp_path / 'data' / split / 'via.json', images)
    reading = convert(tmp_path, 'VIA JSON')
    assert set(reading.classes) == {'cat', 'dog'}
    assert set(read_samples(reading, 'val')) == set(PLAIN[:2])


# ----------------------------------------------------------------- images and splits


def test_image_listed_twice(tmp_path):
    TOOL_BUILDERS['via_project'](tmp_path / 'data')
    told = '8 images are listed twice with the same objects'
    assert told in convert(tmp_path, 'VIA JSON', 'once').notes

    images = list_via_images(PLAIN, range(8))
    for image in images.values():
        image['regions'] = []
    write_json(tmp_path / 'data' / 'via_export_json.json', images)
    reading = convert(tmp_path, 'VIA JSON', 'empty')
    assert all(len(sample.boxes) for sample in read_samples(reading).values())

    images = list_via_images(PLAIN, range(8))
    images[f'{PLAIN[2]}1002']['regions'].pop()
    write_json(tmp_path / 'data' / 'via_export_json.json', images)
    with pytest.raises(UserError) as error:
        convert(tmp_path, 'VIA JSON', 'other')
    for part in ('raw/000002.jpg', 'via_project_1Jan2024.json', 'via_export_json.json'):
        assert part in str(error.value)


def test_file_of_no_split_repeats_those_of_splits(tmp_path):
    TOOL_BUILDERS['via_export'](tmp_path / 'data')
    write_json(tmp_path / 'data' / 'all.json', list_via_images(PLAIN, range(8)))
    write_images(tmp_path / 'data' / 'more', PLAIN, [6, 7])
    reading = convert(tmp_path, 'VIA JSON')
    assert read_samples(reading).keys() == {PLAIN[n] for n in (0, 1, 2, 3, 6, 7)}
    assert read_samples(reading, 'val').keys() == {PLAIN[n] for n in (4, 5)}


def test_only_split_is_for_training(tmp_path):
    write_images(tmp_path / 'data' / 'test', PLAIN, range(8))
    write_labelme(tmp_path / 'data' / 'test', PLAIN, range(8))
    assert convert(tmp_path, 'LabelMe JSON').datasets.keys() == {'train'}


def test_nothing_to_train_on(tmp_path):
    for split, numbers in (('val', [0, 1]), ('test', [2, 3])):
        write_images(tmp_path / 'data' / split, PLAIN, numbers)
        write_labelme(tmp_path / 'data' / split, PLAIN, numbers)
    with pytest.raises(UserError, match='nothing to train on, only val, test'):
        convert(tmp_path, 'LabelMe JSON')


def test_name_in_another_spelling(tmp_path):
    """As where a zip was unpacked by a system that writes accents by themselves."""
    names = [unicodedata.normalize('NFD', f'é{n}.jpg') for n in range(8)]
    write_images(tmp_path / 'data' / 'Bilder', names, range(8))
    other = [unicodedata.normalize('NFC', name).upper() for name in names]
    write_cvat(tmp_path / 'data' / 'annotations.xml', other, range(8))
    assert read_samples(convert(tmp_path, 'CVAT XML')).keys() == set(names)


def test_image_of_many_of_one_name(tmp_path):
    """The one whose folders are those of the name, or which is nearest."""
    for folder in ('a/1', 'b/1', 'b/2'):
        write_images(tmp_path / 'data' / folder, ['x.jpg'] * 8, [0])
    names = ['somewhere/a/1/x.jpg', '2/x.jpg', *PLAIN[2:]]
    path = tmp_path / 'data' / 'annotations.xml'
    write_cvat(path, names, [0])
    (sample,) = read_samples(convert(tmp_path, 'CVAT XML')).values()
    assert sample.path == str(tmp_path / 'data/a/1/x.jpg')
    write_cvat(path, ['1/x.jpg'], [0])
    with pytest.raises(UserError, match=r'annotations\.xml: several images.*a/1/x.jpg'):
        convert(tmp_path, 'CVAT XML', 'other')
    path.rename(tmp_path / 'data' / 'b' / 'annotations.xml')
    (sample,) = read_samples(convert(tmp_path, 'CVAT XML', 'near')).values()
    assert sample.path == str(tmp_path / 'data/b/1/x.jpg')


def test_missing_images(tmp_path):
    """They stay in the list, so that the dataset says which they are."""
    TOOL_BUILDERS['via_export'](tmp_path / 'data')
    (tmp_path / 'data' / 'train' / PLAIN[1]).unlink()
    (tmp_path / 'data' / 'train' / PLAIN[2]).write_bytes(b'no image')
    reading = convert(tmp_path, 'VIA JSON')
    assert [image['file_name'] for image in read_content(reading)['images']] == [
        f'train/{PLAIN[n]}' for n in range(4)
    ]
    with pytest.raises(FileNotFoundError, match='1 of the 4 images.*000001.jpg'):
        build(reading, 'train')
    assert any(
        note.startswith('2 images are missing or broken, and the annotations say no')
        for note in reading.notes
    )


def test_image_that_stands_in_its_json_alone(tmp_path):
    make_labelme(tmp_path, imageData='/9j/4AAQ')
    (tmp_path / 'data' / PLAIN[0]).unlink()
    notes = convert(tmp_path, 'LabelMe JSON').notes
    assert any(note.startswith('1 images are missing, but stand in') for note in notes)


def test_size_that_labelme_does_not_say(tmp_path):
    shape = dict(label='cat', points=OUTLINE)
    make_labelme(tmp_path, shape, imageHeight=None, imageWidth=None)
    check_only_shape(convert(tmp_path, 'LabelMe JSON'), OUTLINE, 292.5)


def test_other_json_beside_those_of_labelme(tmp_path):
    TOOL_BUILDERS['labelme_moved'](tmp_path / 'data')
    notes = convert(tmp_path, 'LabelMe JSON').notes
    told = '1 JSON files beside them are none of LabelMe: '
    assert told + str(tmp_path / 'data/json/labels.json') in notes


# ------------------------------------------------------------------------ bad content

BOX = '<box label="cat" xtl="10" ytl="5" xbr="30" ybr="28"/>'
CVAT = 'the file is no annotation of CVAT for images'
IMAGE = f'{CVAT}: {PLAIN[0]}'
BAD_CVAT: dict[str, tuple[str, str, str]] = {
    'number': (
        'xtl="10"',
        'xtl="1o"',
        f":7: {IMAGE}: <box> 'cat': xtl: '1o' is no num",
    ),
    'side': ('ybr="28"', '', f":7: {IMAGE}: <box> 'cat': ybr is missing"),
    'label': ('label="cat"', 'label=" "', f":7: {IMAGE}: <box> '': it has no label"),
    'angle': ('ybr="28"', 'ybr="28" rotation="nan"', ':7: .*rotation: nan is no angle'),
    'outside': ('ybr="28"', 'ybr="28" outside="x"', ":7: .*'x' is neither 0 nor 1"),
    'point': (BOX, '<polygon label="cat" points="1,2;3"/>', ":7: .*points: '3' is no"),
    'no point': (BOX, '<polygon label="cat" points=""/>', ':7: .*has no point'),
    'runs': (
        BOX,
        '<mask label="cat" rle="1,2" left="0" top="0" width="9" height="9"/>',
        r':7: .*\[1, 2\] are none of 9 x 9',
    ),
    'huge mask': (
        BOX,
        '<mask label="cat" rle="0,4000000000000" left="0" top="0" width="2000000" '
        'height="2000000"/>',
        ':7: .*the runs',
    ),
    'width': ('width="', 'width="-', ":6: .*width: '-"),
    'name': ('<image id="0" name="000000.jpg"', '<image id="0"', ':6: .*image 0: name'),
    'cut off': ('</image>', '', f':9: {CVAT}: mismatched tag'),
    'entity': (
        '<annotations>',
        '<!DOCTYPE a [<!ENTITY b "cccc">]><annotations>',
        f':2: {CVAT}: it declares a document type',
    ),
    'video': (
        'image',
        'track',
        ' the file is an annotation of CVAT for video.*CVAT for images 1.1',
    ),
}


@pytest.mark.parametrize('fault', BAD_CVAT)
def test_bad_content_of_cvat(tmp_path, fault):
    old, new, message = BAD_CVAT[fault]
    path = make_cvat(tmp_path, f'    {BOX}')
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=rf'data/annotations\.xml:?{message}'):
        convert(tmp_path, 'CVAT XML')
    assert not (tmp_path / 'out').exists()


def spoil_via(**values: object) -> Callable[[dict], object]:
    """Replaces values of the only region's shape."""

    def spoil(content: dict) -> dict:
        (image,) = content.values()
        image['regions'][0]['shape_attributes'].update(values)
        return content

    return spoil


def spoil_via_image(**values: object) -> Callable[[dict], object]:
    return lambda content: {key: {**image, **values} for key, image in content.items()}


REGION = r'via\.json: regions\[0\]: 000000\.jpg: '
BAD_VIA: Mapping[str, tuple[Callable[[dict], object], str]] = {
    'number': (spoil_via(x='one'), REGION + "x: 'one' is no number"),
    'null': (spoil_via(height=None), REGION + 'height: None is no number'),
    'key': (spoil_via(name='circle', cx=1, cy=2), REGION + 'r is missing'),
    'lengths': (
        spoil_via(name='polygon', all_points_x=[1, 2], all_points_y=[1]),
        REGION + 'all_points_x has 2 numbers, all_points_y 1',
    ),
    'list': (
        spoil_via(name='polygon', all_points_x=3, all_points_y=3),
        REGION + 'all_points_x: 3 is no list of numbers',
    ),
    'angle': (
        spoil_via(name='ellipse', cx=1, cy=1, rx=1, ry=1, theta=math.inf),
        REGION + 'theta: inf is no angle',
    ),
    'file name': (
        spoil_via_image(filename=None),
        r'via\.json: 000000\.jpg1000: .*filename: None is no name',
    ),
    'regions': (spoil_via_image(regions='x'), "000000.jpg1000: .*'x' are no regions"),
    'shape': (
        spoil_via_image(regions=[dict(region_attributes={})]),
        r'000000.jpg1000: regions\[0\]: .*shape_attributes is missing',
    ),
    'image': (lambda content: {**content, 'b.jpg1': 3}, 'b.jpg1: .*3 is no image'),
    'no images': (lambda content: wrap_via_project({}), 'the file lists no images'),
    'not a dict': (
        lambda content: dict(_via_img_metadata=[1, 2]),
        'images by name are wanted',
    ),
}


@pytest.mark.parametrize('fault', BAD_VIA)
def test_bad_content_of_via(tmp_path, fault):
    spoil, message = BAD_VIA[fault]
    content = make_via(tmp_path, dict(name='rect', x=1, y=2, width=3, height=4))
    write_json(tmp_path / 'data' / 'via.json', spoil(content))
    with pytest.raises(UserError, match=message) as error:
        convert(tmp_path, 'VIA JSON')
    assert str(tmp_path / 'data/via.json') in str(error.value)
    assert not (tmp_path / 'out').exists()


def test_cut_off_json(tmp_path):
    make_via(tmp_path / 'via', dict(name='rect', x=1, y=2, width=3, height=4))
    path = tmp_path / 'via/data/via.json'
    path.write_text(path.read_text()[:-10])
    with pytest.raises(UserError, match=r'via\.json: the file is not JSON'):
        convert(tmp_path / 'via', 'VIA JSON')
    TOOL_BUILDERS['labelme'](tmp_path / 'labelme/data')
    path = tmp_path / 'labelme/data/000003.json'
    for text in ('', '{"vers', '[' * 100_000):
        path.write_text(text)
        with pytest.raises(UserError, match=r'000003\.json: the file is'):
            convert(tmp_path / 'labelme', 'LabelMe JSON')


BAD_LABELME: Mapping[str, tuple[dict, str]] = {
    'label': (dict(label=None), r'shapes\[0\]: label: None is no name'),
    'no label': (dict(label=' '), r'shapes\[0\]: label: it is empty'),
    'points': (dict(points=[[1, 2]]), r'shapes\[0\]: points: .*not two points'),
    'point': (dict(points=[[1, 2], [3]]), r'shapes\[0\]: points: \[3\] is no point'),
    'number': (
        dict(points=[[1, 2], [3, 'x']]),
        r"shapes\[0\]: points: 'x' is no number",
    ),
}


@pytest.mark.parametrize('fault', BAD_LABELME)
def test_bad_shape_of_labelme(tmp_path, fault):
    values, message = BAD_LABELME[fault]
    make_labelme(tmp_path, dict(label='cat', points=OUTLINE) | values)
    with pytest.raises(UserError, match=r'data/000000\.json: ' + message):
        convert(tmp_path, 'LabelMe JSON')


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (dict(imagePath=None), 'imagePath: None is no name'),
        (dict(imageWidth=-3), 'imageWidth: -3 is no size'),
        (dict(imageHeight='x'), "imageHeight: 'x' is no size"),
        (dict(shapes=[3]), r'shapes\[0\]: 3 is no object'),
    ],
)
def test_bad_values_of_labelme(tmp_path, values, message):
    make_labelme(tmp_path, **values)
    with pytest.raises(UserError, match=r'data/000000\.json: ' + message):
        convert(tmp_path, 'LabelMe JSON')


ODD_VALUES = (
    None, True, 0, -1, 1e308, math.nan, math.inf, 10**30, '', 'x', '1e400', '\0',
    '\ud800', '../..', '/', [], [1], [[]], {}, dict(a=1),
)  # fmt: skip


def list_places(value: object, place: tuple = ()) -> list[tuple]:
    """The keys that lead to each value inside dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    places = [(*place, key) for key, _ in items]
    inside = [
        list_places(value[path[-1]], path)
        for path in places
        if isinstance(value[path[-1]], (dict, list))
    ]
    return [*places, *(path for paths in inside for path in paths)]


def replace_value(content: object, place: tuple, value: object) -> bytes:
    content = copy.deepcopy(content)
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return json.dumps(content).encode()


def list_odd_via() -> list[bytes]:
    content = wrap_via_project(list_via_images(PLAIN, [0]), 'raw')
    (image,) = content['_via_img_metadata'].values()
    image['regions'] = [
        dict(shape_attributes=dict(shape, name=kind), region_attributes=dict(a='cat'))
        for kind, (shape, _, _) in VIA_SHAPES.items()
    ]
    places = list_places(content)
    return [replace_value(content, p, v) for p in places for v in ODD_VALUES]


def list_odd_labelme() -> list[bytes]:
    shapes = [
        dict(label='cat', points=np.array(points).tolist(), shape_type=kind, group_id=1)
        for kind, (points, _, _) in LABELME_SHAPES.items()
    ]
    content = dict(imagePath='a.jpg', imageWidth=9, imageHeight=9, shapes=shapes)
    places = list_places(content)
    return [replace_value(content, p, v) for p in places for v in ODD_VALUES]


def list_odd_cvat() -> list[bytes]:
    elements = '\n'.join(element for element, _, _ in CVAT_SHAPES.values())
    text = (
        '<annotations><image id="0" name="a.jpg" width="64" height="48">'
        f'{elements}<mask label="dog" rle="1,3" left="1" top="2" width="2" height="2"/>'
        '</image></annotations>'
    )
    values = [str(v) for v in ODD_VALUES if str(v).isprintable()] + ['1;2', ',;,', '<']
    return [
        (text[: found.start(1)] + value + text[found.end(1) :]).encode()
        for found in re.finditer('="([^"]*)"', text)
        for value in values
    ]


@pytest.mark.parametrize(
    ('layout', 'list_contents'),
    [
        ('CVAT XML', list_odd_cvat),
        ('VIA JSON', list_odd_via),
        ('LabelMe JSON', list_odd_labelme),
    ],
)
@pytest.mark.slow
@pytest.mark.filterwarnings('error')
def test_odd_values_are_read_or_refused(tmp_path, layout, list_contents):
    """Each value of a file in turn: what is read, parse_coco takes."""
    parse = {'CVAT XML': parse_cvat, 'LabelMe JSON': parse_labelme}.get(layout)
    read = refused = 0
    for content in list_contents():
        contents = [(str(tmp_path / 'a.file'), content)]
        try:
            parsed = parse_each(parse, contents) if parse else parse_via(contents)
        except UserError as error:
            assert str(error).startswith(f'{tmp_path}/a.file:')
            refused += 1
            continue
        known = [found for found in parsed.values() if found is not None]
        images = [image for found in known for image in found.images]
        entries = [Entry(f'/{image.name}', image, None, 'a') for image in images]
        coco, _ = build_coco(entries, list_classes(known), '/', layout)
        parse_coco(json.dumps(coco).encode())
        read += 1
    assert min(read, refused) > 50


def test_boxes_that_are_none_are_left_to_the_dataset(tmp_path, log):
    """It counts them, as those of any COCO file."""
    boxes = [
        dict(label='cat', points=points, shape_type='rectangle')
        for points in (
            [[1, 2], [1, 2]],
            [[1, 2], [math.nan, 3]],
            [[500, 2], [600, 30]],
            [[1, 2], [9, 8]],
        )
    ]
    make_labelme(tmp_path, *boxes)
    reading = convert(tmp_path, 'LabelMe JSON')
    (sample,) = read_samples(reading).values()
    assert sample.boxes.tolist() == [[1, 2, 9, 8]]
    (message,) = log
    for part in ('1 of zero or negative size', '1 NaN or infinite', '1 outside the im'):
        assert part in message


def test_link_that_leads_nowhere_is_no_annotation(tmp_path):
    write_text(tmp_path / 'data' / 'a.txt', 'x')
    (tmp_path / 'data' / 'annotations.xml').symlink_to('/nowhere')
    tree = read_tree(tmp_path / 'data')
    assert not any(conversion.recognise(tree) for conversion in CONVERSIONS)
