"""COCO data as tools export them, and categories by their ids."""

import json
from pathlib import Path

from mmnextvit.datasets.coco import list_usable_names
from mmnextvit.utils.errors import MissingFileError, UserError

import pytest
from mmengine.registry import init_default_scope

from tests.helpers.bad_data import (
    build_dataset,
    list_boxes,
    list_infos,
    measure_truth,
    write_image,
)
from tests.helpers.commands import run_here
from tests.helpers.tiny_run import write_tiny_run


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')


def write_coco(
    file: Path,
    names: list[str],
    categories: list[dict],
    labels: list | None = None,
    first_id: int = 0,
) -> None:
    """An annotation file with a box in each image, of the categories in turn.

    Args:
        file: JSON file, whose folders are made.
        names: The images' ``file_name``.
        categories: The entries of the file.
        labels: Category ids to be used; all if ``None``.
        first_id: From which images and annotations are counted.
    """
    ids = labels or [category['id'] for category in categories]
    numbers = range(first_id, first_id + len(names))
    content = dict(
        images=[
            dict(id=i, file_name=name, width=64, height=48)
            for i, name in zip(numbers, names)
        ],
        categories=categories,
        annotations=[
            dict(
                id=i,
                image_id=i,
                category_id=ids[(i - first_id) % len(ids)],
                bbox=[4, 4, 20, 20],
                segmentation=[],
                iscrowd=0,
                ignore=0,
                area=400.0,
            )
            for i in numbers
        ],
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, number)


def build(root: Path, ann_file: str, classes: tuple[str, ...], **cfg: object):
    cfg = dict(metainfo=dict(classes=classes)) | cfg
    return build_dataset(root, type='VerifiedCocoDataset', ann_file=ann_file, **cfg)


def list_labels(dataset) -> list[int]:
    return [
        box['bbox_label'] for info in list_infos(dataset) for box in info['instances']
    ]


CAT, DOG = dict(id=1, name='cat'), dict(id=2, name='dog')

# What Roboflow's exports begin with: a parent of all.
ANIMALS = [
    dict(id=0, name='animals', supercategory='none'),
    dict(id=1, name='cat', supercategory='animals'),
    dict(id=2, name='dog', supercategory='animals'),
]
PERSONS = [
    dict(id=0, name='person', supercategory='none'),
    dict(id=1, name='person', supercategory='person'),
]
TWINS = [
    dict(id=0, name='dog', supercategory='none'),
    dict(id=1, name='cat', supercategory='dog'),
    dict(id=2, name='dog', supercategory='dog'),
]

# ---------------------------------------------------------------------------- layouts

ODD_NAMES = (
    'a b.jpg',
    'IMG_1 (2) [x].JPG',
    '猫 ёж.png',
    'a.b.c_jpg.rf.0f3a.jpg',
    'sub folder/1.JPEG',
    '#50%.bmp',
)


@pytest.mark.parametrize(
    ('ann_file', 'folder', 'prefix', 'names'),
    [
        ('train/_annotations.coco.json', 'train', 'train/', ODD_NAMES),
        ('_annotations.coco.json', '.', '', ODD_NAMES),
        ('annotations/instances_default.json', 'images', 'images/', ODD_NAMES),
        ('annotations/instances_default.json', 'images/default', 'images/default',
         ODD_NAMES),
        ('annotations/instances_train2017.json', 'train2017', 'train2017', ODD_NAMES),
        ('result.json', '.', '', [f'images/{name}' for name in ODD_NAMES]),
        ('coco.json', '.', '', [f'./x/../{name}' for name in ODD_NAMES]),
    ],
)  # fmt: skip
def test_layouts(tmp_path, log, ann_file, folder, prefix, names):
    write_images(tmp_path / folder, *names)
    (tmp_path / folder / 'x').mkdir(exist_ok=True)
    write_coco(tmp_path / ann_file, names, [CAT, DOG])
    shape = dict(type='BatchShapePolicy', batch_size=2, img_size=64)
    for cfg in ({}, dict(test_mode=True, batch_shapes_cfg=shape)):
        given = dict(data_prefix=dict(img=prefix)) | cfg
        dataset = build(tmp_path, ann_file, ('cat', 'dog'), **given)
        assert sorted(list_labels(dataset)) == [0, 0, 0, 1, 1, 1]
        assert list_boxes(dataset) == [[4, 4, 24, 24]] * 6
        assert all(dataset[i]['img'].shape == (48, 64, 3) for i in range(6))
    assert not log


def test_images_lie_in_data_root_unless_the_config_says_where(tmp_path):
    write_images(tmp_path, 'a.jpg')
    write_coco(tmp_path / 'x.json', ['a.jpg'], [CAT])
    assert len(build(tmp_path, 'x.json', ('cat',))) == 1
    assert len(build(tmp_path, 'x.json', ('cat',), data_prefix=dict(seg='seg'))) == 1


def test_names_of_windows(tmp_path, log):
    """Label Studio writes them where it runs on Windows."""
    write_images(tmp_path / 'images', '1/a.jpg', '1/b.jpg', 'c\\d.jpg')
    names = ['images\\1/a.jpg', 'images\\1\\b.jpg', 'images/c\\d.jpg']
    write_coco(tmp_path / 'result.json', names, [dict(id=0, name='cat')])
    dataset = build(tmp_path, 'result.json', ('cat',), test_mode=True)
    infos = list_infos(dataset)
    assert [info['img_path'] for info in infos] == [
        f'{tmp_path}/images/1/a.jpg',
        f'{tmp_path}/images/1/b.jpg',
        f'{tmp_path}/images/c\\d.jpg',
    ]
    given = dict(ann_file=f'{tmp_path}/result.json')
    assert measure_truth(infos, dataset.metainfo, **given)['coco/bbox_mAP'] == 1
    (tmp_path / 'list.txt').write_text('images/1/b.jpg\nimages/c\\d.jpg\n')
    assert len(build(tmp_path, 'result.json', ('cat',), image_list='list.txt')) == 2
    assert not log


def test_names_of_windows_that_lead_nowhere(tmp_path):
    write_images(tmp_path / 'images', 'a.jpg')
    names = ['images\\1\\a.jpg', 'images\\1\\b.jpg']
    write_coco(tmp_path / 'result.json', names, [CAT])
    with pytest.raises(MissingFileError, match='2 of the 2 images') as error:
        build(tmp_path, 'result.json', ('cat',))
    message = str(error.value)
    assert r'images\1\a.jpg' in message
    assert 'a backslash separates folders on Windows alone' in message
    assert f'the first one may be {tmp_path}/images/a.jpg' in message


@pytest.mark.parametrize(
    ('name', 'place'),
    [
        ('a.jpg', 'images/a.jpg'),  # wrong data_prefix
        ('/content/drive/a.jpg', 'train/a.jpg'),  # of another computer
        ('images/a.jpg', 'images/a.JPG'),
        ('images/\u00e9.jpg', 'images/e\u0301.jpg'),
    ],
)
def test_where_missing_images_may_be(tmp_path, name, place):
    write_images(tmp_path, place)
    write_coco(tmp_path / 'annotations' / 'x.json', [name], [CAT])
    with pytest.raises(MissingFileError, match='1 of the 1 images') as error:
        build(tmp_path, 'annotations/x.json', ('cat',))
    assert f'the first one may be {tmp_path}/{place}' in str(error.value)
    assert 'backslash' not in str(error.value)


# ------------------------------------------------------------------------- categories


@pytest.fixture
def animals(tmp_path):
    """Four images, whose boxes are of the categories that a test names."""

    def make(categories: list[dict], labels: list) -> Path:
        names = [f'{i}.jpg' for i in range(4)]
        write_images(tmp_path, *names)
        write_coco(tmp_path / 'x.json', names, categories, labels)
        return tmp_path

    return make


CASES = [
    (ANIMALS, [1, 2], ('cat', 'dog'), (1, 2), [0, 1, 0, 1]),
    (ANIMALS, [1, 2], ('dog', 'cat'), (2, 1), [1, 0, 1, 0]),
    (ANIMALS, [1, 2], ('cat', 'dog'), ('1', 2.0), [0, 1, 0, 1]),
    (ANIMALS, [1, 2], ['Cat', 'Hound'], [1, 2], [0, 1, 0, 1]),
    (PERSONS, [1], ('person',), (1,), [0] * 4),
    (TWINS, [1, 2], ('dog', 'cat'), (2, 1), [1, 0, 1, 0]),
    (TWINS, [0, 2], ('dog', 'dog 2'), (0, 2), [0, 1, 0, 1]),
    ([dict(id='a', name='cat'), dict(id='b', name='dog')], ['a', 'b'],
     ('dog', 'cat'), ('b', 'a'), [1, 0, 1, 0]),
]  # fmt: skip


@pytest.mark.parametrize(('categories', 'used', 'classes', 'ids', 'labels'), CASES)
@pytest.mark.parametrize('test_mode', [False, True])
def test_class_ids(animals, log, categories, used, classes, ids, labels, test_mode):
    root = animals(categories, used)
    dataset = build(root, 'x.json', classes, class_ids=ids, test_mode=test_mode)
    assert list_labels(dataset) == labels
    assert dataset.metainfo['classes'] == tuple(classes)
    assert not log


@pytest.mark.slow
@pytest.mark.parametrize(('categories', 'used', 'classes', 'ids', 'labels'), CASES)
@pytest.mark.parametrize('from_file', [False, True])
def test_class_ids_in_the_metric(
    animals, log, categories, used, classes, ids, labels, from_file
):
    """With its truth from the samples and from the file; saved results have them."""
    root = animals(categories, used)
    dataset = build(root, 'x.json', classes, class_ids=ids, test_mode=True)
    given = dict(ann_file=f'{root}/x.json') if from_file else {}
    given.update(classwise=True, outfile_prefix=f'{root}/written')
    numbers = measure_truth(list_infos(dataset), dataset.metainfo, **given)
    assert {numbers[f'coco/{name}_precision'] for name in classes} == {1}
    saved = json.loads((root / 'written.bbox.json').read_text())
    wanted = (used * 4)[:4] if from_file else labels
    assert [entry['category_id'] for entry in saved] == wanted
    assert not log


@pytest.mark.parametrize(
    ('categories', 'classes', 'used'),
    [(PERSONS, ('person',), [1]), (TWINS, ('cat', 'dog'), [1, 2])],
)
def test_a_metric_of_a_file_where_a_parent_bears_the_name_of_a_class(
    animals, categories, classes, used
):
    """The dataset may be of another format, with no ids."""
    root = animals(categories, used)
    ids = tuple(used)
    dataset = build(root, 'x.json', classes, class_ids=ids, test_mode=True)
    given = dict(ann_file=f'{root}/x.json', outfile_prefix=f'{root}/written')
    metainfo = dict(classes=classes)
    numbers = measure_truth(list_infos(dataset), metainfo, **given)
    assert numbers['coco/bbox_mAP'] == 1
    saved = json.loads((root / 'written.bbox.json').read_text())
    assert [entry['category_id'] for entry in saved] == (used * 4)[:4]


def test_a_metric_of_a_file_whose_twins_both_own_boxes(animals):
    root = animals(PERSONS, [0, 1])
    dataset = build(root, 'x.json', ('person',), class_ids=(1,), test_mode=True)
    given = dict(ann_file=f'{root}/x.json')
    numbers = measure_truth(list_infos(dataset), dataset.metainfo, **given)
    assert numbers['coco/bbox_mAP'] == 1  # of those of id 1
    with pytest.raises(UserError, match='two categories of one name') as error:
        measure_truth(list_infos(dataset), dict(classes=('person',)), **given)
    assert "'person' of id 0 (2 boxes), 'person' of id 1 (2 boxes)" in str(error.value)


def test_the_way_out_of_two_categories_of_one_name(animals, log):
    root = animals(TWINS, [1, 2])
    with pytest.raises(UserError, match='two categories of one name') as error:
        build(root, 'x.json', ('dog', 'cat'))
    assert 'Write class_ids=(2, 1) into the dataset' in str(error.value)
    root = animals(PERSONS, [0, 1])
    with pytest.raises(UserError, match='Write class_ids into the dataset'):
        build(root, 'x.json', ('person',))
    build(root, 'x.json', ('person',), class_ids=(1,))
    assert log[0].endswith('config are ignored: person of id 0 (2)')


def test_parent_and_unused_categories_are_no_classes(animals, log):
    root = animals(ANIMALS, [1, 2])
    assert list_labels(build(root, 'x.json', ('cat', 'dog'))) == [0, 1, 0, 1]
    assert not log
    with pytest.raises(UserError, match="no category 'person'") as error:
        build(root, 'x.json', ('person',))
    assert "Write metainfo=dict(classes=('cat', 'dog')), num_" in str(error.value)
    with pytest.raises(UserError, match='another order') as error:
        build(root, 'x.json', ('dog', 'cat', 'animals'))
    assert "Write metainfo=dict(classes=('cat', 'dog')), num_" in str(error.value)
    root = animals(ANIMALS, [2])
    with pytest.raises(UserError) as error:
        build(root, 'x.json', ('animals', 'dgo'))
    assert "Write metainfo=dict(classes=('dog',)), num_classes=1" in str(error.value)


@pytest.mark.parametrize(
    ('categories', 'used', 'wanted', 'names'),
    [
        (ANIMALS, [1, 2], (), ['cat', 'dog']),
        (ANIMALS, [2], (), ['dog']),
        (ANIMALS, [2], ('animals', 'cat'), ['cat', 'dog']),
        (ANIMALS, [0, 2], (), ['animals', 'dog']),
        (ANIMALS, [], (), ['cat', 'dog']),
        (PERSONS, [1], (), ['person']),
        (PERSONS, [], (), ['person']),
        ([dict(id=1, name='cat', supercategory='cat')], [], (), ['cat']),
        ([CAT, DOG], [], (), ['cat', 'dog']),
    ],
)
def test_usable_names(categories, used, wanted, names):
    annotations = [dict(category_id=number) for number in used]
    content = dict(categories=categories, annotations=annotations)
    assert list_usable_names(content, wanted) == names


@pytest.mark.parametrize(
    ('ids', 'message'),
    [
        ((1, 7), r'x.json: class_ids of the dataset has 7, which is the id of no .*'
                 r'They are 0 \(animals\), 1 \(cat\), 2 \(dog\)'),
        ((1, 'b'), "x.json: class_ids of the dataset has 'b', which is the id of no"),
        ((1, 1), r'class_ids=\(1, 1\) has 1 twice: write one id for each of the'),
        ((1,), r'class_ids=\(1,\) has 1 ids for 2 classes: write one id for each of '
               r"the classes \('cat', 'dog'\)"),
        ((), r'class_ids=\(\) has 0 ids for 2 classes'),
        ((0, 1, 2), r'class_ids=\(0, 1, 2\) has 3 ids for 2 classes'),
        ((2, 1), "x.json: class_ids of the dataset gives the class 'cat' the id 2, "
                 "which is 'dog' in the file, where 'cat' is 1"),
        (1, 'class_ids=1 is no tuple of ids'),
        ('12', "class_ids='12' is no tuple of ids"),
        ((1, None), r'class_ids=\(1, None\): None is no id'),
        ((1, 1.5), r'class_ids=\(1, 1.5\): 1.5 is no id'),
    ],
)  # fmt: skip
@pytest.mark.parametrize('test_mode', [False, True])
def test_wrong_class_ids(animals, ids, message, test_mode):
    root = animals(ANIMALS, [1, 2])
    given = dict(class_ids=ids, test_mode=test_mode)
    with pytest.raises(UserError, match=message):
        build(root, 'x.json', ('cat', 'dog'), **given)


@pytest.mark.slow
def test_an_epoch_of_a_split_by_lists(tmp_path, capfd):
    """Roboflow's layout in one folder, whose parent bears the name of a class.

    The evaluator reads the whole file and takes ids and images from the dataset.
    """
    config = write_tiny_run(tmp_path)
    folder = tmp_path / 'data' / 'train'
    content = json.loads((tmp_path / 'data/annotations/train.json').read_text())
    circle, square, triangle = content['categories']
    parent = dict(id=99, name='square', supercategory='none')
    content['categories'] = [parent, triangle, circle, square]
    (folder / '_annotations.coco.json').write_text(json.dumps(content))
    names = [f'train/{image["file_name"]}' for image in content['images']]
    (tmp_path / 'my_train.txt').write_text('\n'.join(names[:4]))
    (tmp_path / 'my_val.txt').write_text('\n'.join(names[4:]))
    config.write_text(
        config.read_text()
        + f"""
common = dict(
    ann_file='train/_annotations.coco.json',
    data_prefix=dict(img='train/'),
    class_ids={tuple(c['id'] for c in (circle, square, triangle))},
)
train.update(common, image_list='{tmp_path}/my_train.txt')
val.update(common, image_list='{tmp_path}/my_val.txt')
val_evaluator = test_evaluator = dict(ann_file='{folder}/_annotations.coco.json')
train_cfg = dict(max_epochs=1, val_interval=1)
"""
    )
    output = run_here('train', config.name, cwd=tmp_path, capfd=capfd)
    assert 'Epoch(train) [1][2/2]' in output and 'coco/bbox_mAP:' in output
    assert 'Epoch(val) [1][2/2]' in output and 'were not evaluated' not in output
