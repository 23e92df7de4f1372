"""Every layout that is read: what it is recognised as, and what the datasets read."""

import json
import os
import shutil
from pathlib import Path

from mmnextvit.folder_import.layouts import LAYOUTS
from mmnextvit.folder_import.recognition import list_files, list_readings
from mmnextvit.utils.errors import UserError

import pytest

from tests.helpers import layouts
from tests.helpers.layouts import BUILDERS, CLASSES, ODD, PLAIN, SPLITS, TRUTH
from tests.helpers.read_layouts import read_boxes

PAIR = dict(train=SPLITS['train'], val=SPLITS['val'])


def read(folder: Path | str):
    """The only reading of a folder."""
    (reading,) = list_readings(folder)[1]
    return reading


def check(reading, expected) -> None:
    assert reading.layout == expected.layout
    assert set(reading.datasets) == set(expected.splits)
    assert reading.classes == expected.classes
    assert reading.class_ids == expected.class_ids
    assert read_boxes(reading) == {s: expected.list_boxes(s) for s in expected.splits}


def fault(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        list_readings(folder)[1]
    return str(caught.value)


def test_every_layout_has_a_builder(tmp_path) -> None:
    built = {build(tmp_path / name).layout for name, build in BUILDERS.items()}
    assert built == set(LAYOUTS)


@pytest.mark.slow
@pytest.mark.parametrize('names', [PLAIN, ODD], ids=['plain', 'odd'])
@pytest.mark.parametrize('layout', BUILDERS)
def test_layout_is_recognised_and_read(tmp_path, layout, names) -> None:
    """As made, with names that have spaces, brackets, other letters and suffixes."""
    root = tmp_path / ('my [data] ünd' if names is ODD else 'data')
    expected = BUILDERS[layout](root, names)
    reading = read(root)
    check(reading, expected)
    for config in reading.datasets.values():
        assert os.path.isabs(config['ann_file']) and os.path.isabs(config['data_root'])
        assert set(config) <= {
            'type', 'data_root', 'ann_file', 'data_prefix', 'split', 'ann_subdir',
            'img_subdir',
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('layout', BUILDERS)
def test_layout_in_a_folder_of_its_name(tmp_path, layout) -> None:
    """As archives unpack, with what macOS, a browser and a clone leave around."""
    root = tmp_path / 'data set' / 'dataset' / 'dataset'
    expected = BUILDERS[layout](root)
    outer = tmp_path / 'data set'
    shutil.copytree(root, outer / '__MACOSX' / 'dataset')
    shutil.copytree(root, outer / '.cache' / 'dataset')
    (outer / 'LICENSE.txt').write_text('free')
    (outer / 'readme.md').write_text('names: a\ntrain: b')
    (outer / 'package.json').write_text('{"name": "images", "categories": []}')
    (outer / 'compose.yaml').write_text('services:\n  names: 1\n')
    (outer / 'scores.csv').write_text('epoch,loss\n1,2\n')
    (outer / 'pom.xml').write_text('<project></project>')
    check(read(outer), expected)


@pytest.mark.parametrize('layout', BUILDERS)
def test_folder_named_like_a_split(tmp_path, layout) -> None:
    """What the folder itself and those around it are called says nothing."""
    root = tmp_path / 'test' / 'val'
    expected = BUILDERS[layout](root)
    check(read(root), expected)


WITH_FILES = [name for name in BUILDERS if not name.startswith(('voc', 'roboflow_voc'))]


@pytest.mark.slow
@pytest.mark.parametrize('layout', WITH_FILES)
def test_file_of_annotations_given(tmp_path, layout) -> None:
    """The file in place of its folder, and of one that holds no images."""
    expected = BUILDERS[layout](tmp_path)
    reading = read(tmp_path)
    file = reading.datasets['train']['ann_file']
    (found,) = list_readings(file)[1]
    assert file in list_files(found)
    assert found.layout == expected.layout
    assert read_boxes(found)['train'] == read_boxes(reading)['train']


def test_prefers_a_data_yaml_to_other_names(tmp_path) -> None:
    expected = layouts.build_roboflow_yolo(tmp_path)
    (tmp_path / 'train' / 'labels' / 'classes.txt').write_text('other\nnames\n')
    check(read(tmp_path), expected)


# ----------------------------------------------------------------------- data.yaml


def write_yaml(root: Path, *lines: str) -> None:
    layouts.write_text(root / 'data.yaml', *lines, "names: ['cat', 'dog']")


def test_one_folder_for_train_and_val(tmp_path) -> None:
    layouts.build_labelimg(tmp_path)
    (tmp_path / 'labels' / 'classes.txt').unlink()
    layouts.write_labels(tmp_path / 'labels', PLAIN, range(8))
    write_yaml(tmp_path, 'train: images', 'val: ./images/')
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train'}
    (note,) = reading.notes
    assert 'data.yaml' in note and 'same' in note and 'no val split' in note


def test_one_folder_for_train_and_val_by_a_link(tmp_path) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    shutil.rmtree(tmp_path / 'valid')
    (tmp_path / 'valid').symlink_to(tmp_path / 'train')
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train', 'test'}
    assert any('no val split' in note for note in reading.notes)


@pytest.mark.parametrize('left', ['nothing', 'an empty folder'])
def test_split_that_is_named_but_not_there(tmp_path, left) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    shutil.rmtree(tmp_path / 'test')
    if left == 'an empty folder':
        (tmp_path / 'test' / 'images').mkdir(parents=True)
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train', 'val'}
    (note,) = reading.notes
    assert '../test/images' in note and 'left out' in note


def test_train_that_is_not_there_has_a_suggestion(tmp_path) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    moved = tmp_path / 'pets' / 'train'
    moved.parent.mkdir()
    (tmp_path / 'train').rename(moved)
    write_yaml(tmp_path, 'train: ../train/images', 'val: valid/images')
    problem = fault(tmp_path)
    assert 'data.yaml:1' in problem and 'train: write pets/train/images' in problem


def test_train_of_another_machine_is_found(tmp_path) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    write_yaml(tmp_path, 'train: /content/pets-1/train/images', 'val: valid/images')
    assert set(read(tmp_path).datasets) == {'train', 'val'}


def test_no_train_at_all(tmp_path) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    write_yaml(tmp_path, 'val: valid/images', 'test: test/images')
    assert 'nothing to train on' in fault(tmp_path)


def test_broken_data_yaml_is_named(tmp_path) -> None:
    layouts.build_roboflow_yolo(tmp_path)
    layouts.write_text(tmp_path / 'data.yaml', 'train: train/images', 'names: 3')
    assert 'data.yaml:2: names' in fault(tmp_path)


# --------------------------------------------------------------------------- darknet


def test_darknet_list_that_is_not_there(tmp_path) -> None:
    layouts.build_darknet(tmp_path)
    (tmp_path / 'data' / 'test.txt').unlink()
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train'}
    assert 'data/test.txt' in reading.notes[0] and 'left out' in reading.notes[0]


def test_darknet_with_one_list_for_both(tmp_path) -> None:
    layouts.build_darknet(tmp_path)
    file = tmp_path / 'data' / 'obj.data'
    file.write_text(file.read_text().replace('test.txt', 'train.txt'))
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train'}
    assert 'no val split' in reading.notes[0]


def test_names_that_differ_between_splits(tmp_path) -> None:
    layouts.build_roboflow_darknet(tmp_path)
    (tmp_path / 'valid' / '_darknet.labels').write_text('dog\ncat\n')
    assert 'differ' in fault(tmp_path)


# ------------------------------------------------------------------- labels and names


def test_unlabelled_images_beside_labelled_ones_are_left_alone(tmp_path) -> None:
    expected = layouts.build_labelimg(tmp_path / 'labelled')
    layouts.write_images(tmp_path / 'unlabelled', PLAIN, range(8))
    check(read(tmp_path), expected)


def test_several_folders_of_images(tmp_path) -> None:
    for folder, numbers in dict(farm=range(4), town=range(4, 8)).items():
        layouts.write_images(tmp_path / folder, PLAIN, numbers)
        layouts.write_labels(tmp_path / folder, PLAIN, numbers)
    layouts.write_images(tmp_path / 'new', ODD, range(3))
    layouts.write_text(tmp_path / 'classes.txt', *CLASSES)
    expected = layouts.expect('YOLO with classes.txt', PLAIN, None, CLASSES)
    check(read(tmp_path), expected)


# ------------------------------------------------------------------------------ COCO


def test_coco_images_in_an_unexpected_folder(tmp_path) -> None:
    layouts.write_images(tmp_path / 'raw' / 'photos', PLAIN, range(8))
    layouts.write_images(tmp_path / 'other', PLAIN, range(2))
    layouts.write_coco(tmp_path / 'labels' / 'all.json', PLAIN, range(8))
    expected = layouts.expect('COCO', PLAIN, None, CLASSES, (1, 2))
    check(read(tmp_path), expected)


def test_coco_images_of_one_name_in_two_splits(tmp_path) -> None:
    """As many programs number them: the folder of the split is the right one."""
    names = dict(train=PLAIN, val=[*PLAIN[4:], *PLAIN[:4]])
    for split, numbers in PAIR.items():
        layouts.write_images(tmp_path / split, names[split], numbers)
        file = tmp_path / 'annotations' / f'{split}.json'
        layouts.write_coco(file, names[split], numbers)
    reading = read(tmp_path)
    folders = {s: c['data_prefix']['img'] for s, c in reading.datasets.items()}
    assert folders == {split: str(tmp_path / split) for split in PAIR}


def test_coco_file_names_with_folders(tmp_path) -> None:
    layouts.write_images(tmp_path / 'images' / 'train', PLAIN, range(8))
    names = [f'train\\{name}' for name in PLAIN]
    layouts.write_coco(tmp_path / 'annotations.json', names, range(8))
    expected = layouts.expect('COCO', PLAIN, None, CLASSES, (1, 2))
    check(read(tmp_path), expected)


def test_coco_images_found_by_the_last_part(tmp_path) -> None:
    """Where folders of names are another computer's, the images' folder is named."""
    layouts.write_images(tmp_path / 'images', PLAIN, range(8))
    names = [f'/home/me/{name}' for name in PLAIN]
    layouts.write_coco(tmp_path / 'annotations.json', names, range(8))
    reading = read(tmp_path)
    assert reading.datasets['train']['data_prefix']['img'] == str(tmp_path / 'images')


def test_coco_with_files_for_other_tasks(tmp_path) -> None:
    expected = layouts.build_coco(tmp_path)
    folder = tmp_path / 'annotations'
    for split in PAIR:
        content = json.loads((folder / f'instances_{split}2017.json').read_text())
        for item in content['annotations']:
            item['keypoints'] = [1, 2, 2]
        name = f'person_keypoints_{split}2017.json'
        (folder / name).write_text(json.dumps(content))
        captions = [dict(id=1, image_id=0, caption='A cat.')]
        content = {**content, 'annotations': captions, 'categories': []}
        (folder / f'captions_{split}2017.json').write_text(json.dumps(content))
    readings = list_readings(tmp_path)[1]
    check(readings[0], expected)
    assert len(readings) == 2  # whose boxes are the same, as their datasets will tell


def test_cvat_coco_with_subsets(tmp_path) -> None:
    for split, subset in dict(train='Train', val='Validation').items():
        layouts.write_images(tmp_path / 'images' / subset, PLAIN, SPLITS[split])
        layouts.write_coco(
            tmp_path / 'annotations' / f'instances_{subset}.json',
            PLAIN,
            SPLITS[split],
            licenses=[dict(name='', id=0, url='')],
        )
    check(read(tmp_path), layouts.expect('CVAT COCO 1.0', PLAIN, PAIR, CLASSES, (1, 2)))


def test_coco_file_that_is_broken_further_on(tmp_path) -> None:
    """It is recognised, and the dataset says what is wrong with it."""
    layouts.build_coco_one_file(tmp_path)
    file = tmp_path / 'my pets.json'
    file.write_text(file.read_text().replace('000000.jpg', '\\x.jpg')[:-9])
    reading = read(tmp_path)
    assert reading.datasets['train']['data_prefix'] == dict(img=f'{tmp_path}/images')
    with pytest.raises(UserError, match='my pets.json: the file is not JSON'):
        read_boxes(reading)


def test_coco_file_is_not_parsed(tmp_path, monkeypatch) -> None:
    """Only the beginning, the categories and one annotation are, however long it is."""
    expected = layouts.build_coco_one_file(tmp_path)
    file = tmp_path / 'my pets.json'
    content = json.loads(file.read_text())
    content['annotations'] *= 2000
    file.write_text(json.dumps(dict(content, categories=content['categories'])))
    size = file.stat().st_size
    decoded = []
    decode = json.JSONDecoder.raw_decode

    def count(self, text, idx=0):
        decoded.append(len(text))
        return decode(self, text, idx)

    monkeypatch.setattr(json.JSONDecoder, 'raw_decode', count)
    reading = read(tmp_path)
    assert reading.classes == expected.classes
    assert sum(decoded) < size / 4


def test_coco_with_other_numbers_in_a_split(tmp_path) -> None:
    layouts.build_coco(tmp_path)
    file = tmp_path / 'annotations' / 'instances_val2017.json'
    layouts.write_coco(file, PLAIN, SPLITS['val'], ((7, 'cat'), (9, 'dog')))
    assert 'differ' in fault(tmp_path)


# ---------------------------------------------------------------------------- others


def test_csv_with_names_that_have_folders(tmp_path) -> None:
    layouts.write_images(tmp_path / 'images', PLAIN, range(8))
    names = [f'images/{name}' for name in PLAIN]
    file = tmp_path / 'boxes.csv'
    layouts.write_csv(file, names, range(8), layouts.TENSORFLOW)
    check(read(tmp_path), layouts.expect('TensorFlow CSV', PLAIN))


def test_csv_with_other_columns_and_semicolons(tmp_path) -> None:
    layouts.write_images(tmp_path, PLAIN, range(8))
    file = tmp_path / 'boxes.csv'
    layouts.write_csv(file, PLAIN, range(8), layouts.TENSORFLOW)
    text = file.read_text().replace(',', ';').replace('filename', 'image_path')
    file.write_text(text)
    layouts.write_text(tmp_path / 'test.csv', 'filename,cell_type,xmin,xmax', 'a,b,1,2')
    check(read(tmp_path), layouts.expect('TensorFlow CSV', PLAIN))


def test_long_csv_is_cut_at_a_row(tmp_path) -> None:
    layouts.build_csv_with_header(tmp_path)
    file = tmp_path / '_annotations.csv'
    with open(file, 'a', encoding='utf-8') as out:
        for number in range(2000):
            out.write(f'"more, {number}.jpg",1,1,9,9,cat\n')
    assert read(tmp_path).datasets['train']['data_prefix'] == dict(img=str(tmp_path))


def test_voc_lists_without_val(tmp_path) -> None:
    layouts.build_voc(tmp_path)
    (tmp_path / 'ImageSets' / 'Main' / 'val.txt').unlink()
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train', 'test'}
    assert 'val.txt' in reading.notes[0]
    assert len(read_boxes(reading)['train']) == len(SPLITS['train'])


def test_voc_lists_with_trainval_alone(tmp_path) -> None:
    layouts.build_voc(tmp_path)
    for name in ('train', 'val', 'test'):
        (tmp_path / 'ImageSets' / 'Main' / f'{name}.txt').unlink()
    splits = dict(train=range(6))
    check(read(tmp_path), layouts.expect('Pascal VOC', PLAIN, splits))


def test_voc_list_of_files_that_are_not_there(tmp_path) -> None:
    """As the test list of VOC 2012 is, whose annotations are not published."""
    layouts.build_voc(tmp_path)
    layouts.write_text(tmp_path / 'ImageSets' / 'Main' / 'test.txt', 'a', 'b')
    reading = read(tmp_path)
    assert set(reading.datasets) == {'train', 'val'}
    assert 'test.txt' in reading.notes[0] and 'left out' in reading.notes[0]


def test_voc_in_folders_of_folders(tmp_path) -> None:
    """Annotations and images in the same subfolders, and beside each other."""
    for folder, numbers in dict(farm=range(4), town=range(4, 8)).items():
        layouts.write_images(tmp_path / 'a' / 'images' / folder, PLAIN, numbers)
        layouts.write_voc(tmp_path / 'a' / 'annots' / folder, PLAIN, numbers)
        layouts.write_images(tmp_path / 'b' / folder, PLAIN, numbers)
        layouts.write_voc(tmp_path / 'b' / folder, PLAIN, numbers)
    for root in ('a', 'b'):
        check(read(tmp_path / root), layouts.expect('Pascal VOC', PLAIN))


def test_voc_whose_files_are_called_otherwise_than_the_images(tmp_path) -> None:
    layouts.write_images(tmp_path / 'images', PLAIN, range(8))
    layouts.write_voc(tmp_path / 'xml', PLAIN, range(8))
    for file in (tmp_path / 'xml').iterdir():
        file.rename(file.with_name(f'label_{file.name}'))
    check(read(tmp_path), layouts.expect('Pascal VOC', PLAIN))


def test_truth_has_what_the_tests_are_for() -> None:
    counts = {
        split: layouts.expect('', PLAIN, SPLITS).count_boxes(split) for split in SPLITS
    }
    assert counts['train'].keys() == set(CLASSES)
    assert any(len(drawn.boxes) > 1 for drawn in TRUTH)
