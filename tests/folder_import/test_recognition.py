"""Folders that hold two readings, half of one, or none."""

import json
import shutil
from pathlib import Path

from mmnextvit.folder_import.conversions import CONVERSIONS
from mmnextvit.folder_import.layouts import LAYOUTS
from mmnextvit.folder_import.reading import Reading
from mmnextvit.folder_import.recognition import (
    Counted,
    choose_reading,
    recognise,
)
from mmnextvit.utils.errors import MissingFileError, UserError

import numpy as np
import pytest

from tests.helpers import layouts
from tests.helpers.layouts import BUILDERS, CLASSES, PLAIN, SPLITS
from tests.helpers.read_layouts import read_boxes, read_samples

OUT = 'my'  # where nothing is written


def count(reading: Reading) -> Counted:
    samples = read_samples(reading)
    return Counted(reading, CLASSES, [s for split in samples.values() for s in split])


def refuse(reading: Reading) -> Counted:
    raise AssertionError('there is one reading alone')


def fault(folder: Path, count=refuse) -> str:
    with pytest.raises(UserError) as caught:
        recognise(folder, folder.parent / OUT, count)
    return str(caught.value)


# --------------------------------------------------------------------- two readings

DOUBLES = {
    'COCO beside YOLO': ('coco', 'ultralytics_yolo', 'COCO'),
    'YOLO beside VOC': ('label_studio_yolo', 'voc_folders', 'YOLO with classes.txt'),
    'CSV beside VOC': ('csv_with_header', 'voc_beside', 'Roboflow CSV'),
    'two exports of Roboflow': ('roboflow_coco', 'roboflow_yolo', 'Roboflow YOLO'),
}


@pytest.mark.parametrize('double', DOUBLES)
def test_two_readings_of_the_same_boxes(tmp_path, double) -> None:
    """The more usual one is taken, and it says so."""
    first, second, taken = DOUBLES[double]
    expected = {
        BUILDERS[name](tmp_path).layout: BUILDERS[name] for name in (first, second)
    }
    reading = recognise(tmp_path, tmp_path / OUT, count)
    assert reading.layout == taken
    (other,) = set(expected) - {taken}
    (note,) = reading.notes
    assert other in note and 'same boxes' in note and 'not used' in note


def test_order_of_layouts_decides(tmp_path) -> None:
    """It is that of the issue, whatever the order of names or recognisers."""
    assert list(LAYOUTS)[:4] == [
        'Roboflow YOLO', 'Darknet', 'TensorFlow CSV', 'Roboflow CSV'
    ]  # fmt: skip
    counted = []
    for name in ('coco_one_file', 'voc_folders'):
        BUILDERS[name](tmp_path / name)
        counted.append(count(recognise(tmp_path / name, tmp_path / OUT, refuse)))
    assert choose_reading(counted).layout == 'COCO'
    assert choose_reading(counted[::-1]).layout == 'Pascal VOC'


def test_images_without_boxes_may_be_listed_once(tmp_path) -> None:
    layouts.build_coco_one_file(tmp_path)
    layouts.write_voc(tmp_path / 'annots', PLAIN, range(8))
    layouts.write_images(tmp_path / 'images', [f'new {n}' for n in PLAIN], range(2))
    file = tmp_path / 'my pets.json'
    content = json.loads(file.read_text())
    content['images'].append(
        dict(id=99, file_name=f'new {PLAIN[0]}', width=50, height=50)
    )
    file.write_text(json.dumps(content))
    assert recognise(tmp_path, tmp_path / OUT, count).layout == 'COCO'


def remove_a_box(root: Path) -> str:
    file = root / 'annots' / '000002.xml'
    text = file.read_text()
    start = text.rindex('  <object>')
    file.write_text(text[:start] + '</annotation>')
    return '000002.jpg'


def rename_a_class(root: Path) -> str:
    file = root / 'annots' / '000000.xml'
    text = file.read_text()
    file.write_text(text.replace('<name>cat<', '<name>dog<'))
    return '000000.jpg'


def remove_an_image(root: Path) -> str:
    (root / 'annots' / '000005.xml').unlink()
    return '000005.jpg'


@pytest.mark.parametrize('change', [remove_a_box, rename_a_class, remove_an_image])
def test_two_readings_that_differ(tmp_path, change) -> None:
    """It says what each holds, where they differ, and what to do."""
    layouts.build_coco_one_file(tmp_path)
    layouts.write_voc(tmp_path / 'annots', PLAIN, range(8))
    image = change(tmp_path)
    problem = fault(tmp_path, count)
    assert 'COCO' in problem and 'my pets.json' in problem
    assert 'Pascal VOC' in problem and 'annots' in problem
    assert f'1 images differ: {image}' in problem
    assert '8 images' in problem and 'Give the file of the right one' in problem
    file = tmp_path / 'my pets.json'
    assert recognise(file, tmp_path / OUT, refuse).layout == 'COCO'


def test_images_of_one_name_in_two_splits_are_told_apart() -> None:
    from mmnextvit.datasets.samples import Sample

    def sample(folder: str, *labels: int) -> Sample:
        boxes = np.zeros((len(labels), 4))
        return Sample(f'/{folder}/1.jpg', (9, 9), boxes, np.array(labels, int))

    def counted(layout: str, *samples: Sample) -> Counted:
        dataset = dict(ann_file=f'/{layout}')
        return Counted(Reading(layout, (), dict(train=dataset)), CLASSES, samples)

    one = counted('one', sample('train', 0), sample('val', 1, 1))
    same = counted('same', sample('b', 1, 1), sample('a', 0))
    other = counted('other', sample('train', 0), sample('val', 0))
    assert choose_reading([one, same]).layout == 'one'
    with pytest.raises(UserError, match='1 cat or 2 dog in one and 1 cat in other'):
        choose_reading([one, other])


def test_two_data_sets_in_one_folder(tmp_path) -> None:
    """They are two readings of one layout, and each can be given by itself."""
    layouts.build_voc(tmp_path / 'VOC2007', PLAIN)
    layouts.build_voc(tmp_path / 'VOC2012', [f'2012_{name}' for name in PLAIN])
    problem = fault(tmp_path, count)
    assert 'VOC2007' in problem and 'VOC2012' in problem
    reading = recognise(tmp_path / 'VOC2012', tmp_path / OUT, refuse)
    assert reading.layout == 'Pascal VOC'


def test_second_reading_that_cannot_be_read(tmp_path) -> None:
    layouts.build_coco_one_file(tmp_path)
    layouts.write_voc(tmp_path / 'annots', PLAIN, range(8))
    (tmp_path / 'annots' / '000003.xml').write_text('<annotation><object></annot')
    reading = recognise(tmp_path, tmp_path / OUT, count)
    assert reading.layout == 'COCO'
    (note,) = reading.notes
    assert 'Pascal VOC' in note and '000003.xml' in note


def test_faulty_reading_beside_a_sound_one(tmp_path) -> None:
    expected = layouts.build_voc_folders(tmp_path)
    layouts.write_text(tmp_path / 'data.yaml', 'train: nowhere', 'names: [cat, dog]')
    reading = recognise(tmp_path, tmp_path / OUT, refuse)
    assert read_boxes(reading)['train'] == expected.list_boxes('train')
    (note,) = reading.notes
    assert 'data.yaml' in note and 'left out' in note


def test_conversion_beside_a_reading_is_told(tmp_path) -> None:
    layouts.build_coco_one_file(tmp_path)
    (tmp_path / 'annotations.xml').write_text('<annotations></annotations>')
    (note,) = recognise(tmp_path, tmp_path / OUT, refuse).notes
    assert 'CVAT XML' in note and 'annotations.xml' in note and 'not used' in note


# --------------------------------------------------------------------------- nothing


def test_says_what_it_saw_and_what_it_looked_for(tmp_path) -> None:
    for number in range(12):
        layouts.write_text(tmp_path / f'part {number % 3}' / f'{number}.log', 'a')
    layouts.write_text(tmp_path / 'notes.md', 'a')
    layouts.write_image(tmp_path / 'photos', PLAIN, 0)
    problem = fault(tmp_path)
    assert str(tmp_path) in problem
    for seen in (
        '14 files, 1 of them images',
        '.log 12',
        '.md 1',
        'part 0 4',
        'notes.md',
    ):
        assert seen in problem
    for layout in (*LAYOUTS, *(conversion.layout for conversion in CONVERSIONS)):
        assert layout in problem
    assert len(problem) < 5000


def test_empty_folder(tmp_path) -> None:
    assert 'holds no file' in fault(tmp_path)


def test_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(MissingFileError, match='no such folder'):
        recognise(tmp_path / 'nowhere', tmp_path / OUT, refuse)


def test_file_that_is_no_annotation(tmp_path) -> None:
    layouts.build_coco(tmp_path)
    assert 'Give the folder' in fault(tmp_path / 'train2017' / PLAIN[0])


def test_images_alone(tmp_path) -> None:
    layouts.write_images(tmp_path, PLAIN, range(8))
    assert '8 of them images' in fault(tmp_path)


def test_archive_that_is_not_unpacked(tmp_path) -> None:
    layouts.write_text(tmp_path / 'pets.zip', 'PK')
    assert 'Unpack pets.zip first' in fault(tmp_path)


def test_labels_without_images(tmp_path) -> None:
    layouts.write_labels(tmp_path / 'labels', PLAIN, range(8))
    layouts.write_text(tmp_path / 'classes.txt', *CLASSES)
    assert 'There is no image' in fault(tmp_path)


def test_labels_without_names(tmp_path) -> None:
    layouts.write_images(tmp_path / 'images', PLAIN, range(8))
    layouts.write_labels(tmp_path / 'labels', PLAIN, range(8))
    assert 'write classes.txt' in fault(tmp_path)


def test_labels_in_a_folder_of_another_name(tmp_path) -> None:
    layouts.write_images(tmp_path / 'photos', PLAIN, range(8))
    layouts.write_labels(tmp_path / 'boxes', PLAIN, range(8))
    layouts.write_text(tmp_path / 'classes.txt', *CLASSES)
    problem = fault(tmp_path)
    assert 'boxes/000000.txt' in problem and 'labels/' in problem


@pytest.mark.parametrize('left', ['valid', 'test'])
def test_half_a_folder_without_train(tmp_path, left) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    for folder in {'train', 'valid', 'test'} - {left}:
        shutil.rmtree(tmp_path / folder)
    assert 'train' in fault(tmp_path)


def test_only_one_split_is_for_training(tmp_path) -> None:
    """A folder that was called valid and is all there is."""
    layouts.build_roboflow_coco(tmp_path)
    for folder in ('train', 'test'):
        shutil.rmtree(tmp_path / folder)
    reading = recognise(tmp_path, tmp_path / OUT, refuse)
    assert set(reading.datasets) == {'train'}
    assert len(read_boxes(reading)['train']) == len(SPLITS['val'])


def test_half_of_the_images_are_missing(tmp_path) -> None:
    """The layout is recognised; what reads it says which are missing."""
    layouts.build_coco_one_file(tmp_path)
    for name in PLAIN[::2]:
        (tmp_path / 'images' / name).unlink()
    reading = recognise(tmp_path, tmp_path / OUT, refuse)
    assert reading.datasets['train']['data_prefix']['img'] == str(tmp_path / 'images')
