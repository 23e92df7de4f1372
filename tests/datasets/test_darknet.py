"""Darknet's layouts, files of names alone, and classes chosen by their numbers."""

import os
from pathlib import Path

import mmnextvit  # noqa: F401  (registers what the tests build)
from mmnextvit.datasets import yolo_labels, yolo_scan
from mmnextvit.datasets.darknet import read_darknet, read_names_file
from mmnextvit.datasets.data_yaml import find_images, read_data_yaml
from mmnextvit.datasets.images import read_image_size
from mmnextvit.datasets.yolo_labels import find_label_files
from mmnextvit.utils.errors import MissingFileError, UserError

import pytest
from mmengine.registry import init_default_scope

from tests.helpers.bad_data import list_infos, measure_truth
from tests.helpers.yolo_layouts import (
    BOX,
    build_yolo,
    list_labels,
    write_labelled,
    write_text,
)

OBJ_DATA = (
    '# made by a tool',
    'classes = 2',
    '',
    'train = data/train.txt',
    'valid=data/valid.txt',
    'test =',
    'names = data/obj.names',
    'backup = backup/',
)
DEFAULT_NAMES = ['dog', 'person', 'cat', 'tv', 'car', 'meatballs', 'marinara sauce',
                 'tomato soup', 'chicken noodle soup', 'french onion soup',
                 'chicken breast', 'ribs', 'pulled pork', 'hamburger', 'cavity',
                 'mine']  # fmt: skip


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')


# -------------------------------------------------------------------------- obj.data


def write_darknet(root: Path, folder: str = 'obj_train_data', lists: str = '') -> Path:
    """Two images to train on and one to validate, listed as CVAT and Darknet do."""
    for name, numbers in (('a', [0, 1]), ('b (1)', [1]), ('c', [0])):
        write_labelled(root / folder / f'{name}.jpg', *numbers)
    write_text(root / lists / 'obj.data', *OBJ_DATA)
    write_text(root / lists / 'obj.names', 'cat', 'dog')
    train = [f'data/{folder}/{name}.jpg' for name in ('a', 'b (1)')]
    write_text(root / lists / 'train.txt', *train)
    write_text(root / lists / 'valid.txt', f'data/{folder}/c.jpg')
    return root


def test_cvat_yolo(tmp_path, log):
    """Every path begins with a folder `data/` that is not there."""
    write_darknet(tmp_path)
    train = build_yolo(tmp_path, 'obj.data')
    assert list_labels(train) == {'a.jpg': [0, 1], 'b (1).jpg': [1]}
    val = build_yolo(tmp_path, 'obj.data', split='val', test_mode=True)
    assert list_labels(val) == {'c.jpg': [0]}
    assert train.metainfo['classes'] == val.metainfo['classes'] == ('cat', 'dog')
    assert train.get_data_info(0)['instances'][0]['bbox'] == [24, 12, 40, 36]
    assert train[0]['img'].shape == (48, 64, 3)
    assert measure_truth(list_infos(train), train.metainfo)['coco/bbox_mAP'] == 1
    assert not log


@pytest.mark.parametrize(
    ('folder', 'lists', 'given'),
    [
        ('data/obj', 'data', 'data/obj.data'),  # Darknet's own
        ('data/obj', 'cfg', 'cfg/obj.data'),
        ('obj', '', 'obj.data'),
    ],
)
def test_darknet_folders(tmp_path, folder, lists, given):
    write_darknet(tmp_path, 'obj', lists)
    if folder != 'obj':
        (tmp_path / 'data').mkdir(exist_ok=True)
        (tmp_path / 'obj').rename(tmp_path / folder)
    assert len(build_yolo(tmp_path, given)) == 2
    assert len(build_yolo(tmp_path / lists, Path(given).name)) == 2


def test_data_root_apart_from_the_file(tmp_path):
    write_darknet(tmp_path / 'images')
    (tmp_path / 'cfg/deep').mkdir(parents=True)
    path = (tmp_path / 'images/obj.data').rename(tmp_path / 'cfg/deep/obj.data')
    dataset = build_yolo(tmp_path / 'images', str(path))
    assert list_labels(dataset) == {'a.jpg': [0, 1], 'b (1).jpg': [1]}


def test_order_of_the_places(tmp_path):
    """As written before without `data/`; the file's folder, its parent, data_root."""
    root = tmp_path / 'root'
    cfg = tmp_path / 'up' / 'cfg'
    path = write_text(cfg / 'obj.data', 'train = data/t.txt', 'names = data/n.names')
    places = [
        base / folder / 'n.names'
        for folder in ('data', '')
        for base in (cfg, cfg.parent, root)
    ]
    with pytest.raises(MissingFileError) as error:
        read_darknet(path, str(root))
    assert 'obj.data:2: names: data/n.names does not exist' in str(error.value)
    assert f'looked for {", ".join(map(str, places))}. ' in str(error.value)
    for place in places:
        write_text(place, str(place))
    for place in places:
        assert read_darknet(path, str(root)).names == (str(place),)
        place.unlink()


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('train data/train.txt', ":9: 'train data/train.txt' is no line of Darknet"),
        ('= a', ":9: '= a' is no line of Darknet"),
        ('names = b', ':9: names stands here a second time'),
    ],
)
def test_lines_that_are_none_of_darknets(tmp_path, line, message):
    write_darknet(tmp_path)
    write_text(tmp_path / 'obj.data', *OBJ_DATA, line)
    with pytest.raises(UserError, match=f'obj.data{message}'):
        build_yolo(tmp_path, 'obj.data')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('classes = 2', 'classes = 3', 'obj.data:2: classes: .*2 names: write .* = 2'),
        ('classes = 2', 'classes = two', "obj.data:2: classes: it is 'two', but"),
        (
            'data/train.txt',
            'data/no.txt',
            r'obj.data:4: train: .*looked for .*no.txt',
        ),
        ('data/obj.names', 'no.names', r'obj.data:7: names: no.names does not exist'),
        ('names =', 'nomes =', r'obj.data: the file has no names: write `names ='),
        ('train =', 'trayn =', "obj.data: the file has no 'train': .*one of val"),
    ],
)
def test_faults_of_obj_data(tmp_path, old, new, message):
    write_darknet(tmp_path)
    write_text(tmp_path / 'obj.data', *(line.replace(old, new) for line in OBJ_DATA))
    with pytest.raises(UserError, match=message):
        build_yolo(tmp_path, 'obj.data')


def test_obj_data_of_no_split(tmp_path):
    path = write_text(tmp_path / 'obj.data', 'names = a.names')
    with pytest.raises(UserError, match='none of the keys train, valid, val, test'):
        read_darknet(path)


def test_number_of_classes_may_be_left_out(tmp_path):
    write_darknet(tmp_path)
    write_text(tmp_path / 'obj.data', *OBJ_DATA[2:], end='\r\n')
    assert len(build_yolo(tmp_path, 'obj.data')) == 2


def test_missing_images_of_a_list(tmp_path, log):
    """The first entry is missing; the others say where the list's paths count from."""
    write_darknet(tmp_path)
    (tmp_path / 'obj_train_data/a.jpg').unlink()
    with pytest.raises(MissingFileError) as error:
        build_yolo(tmp_path, 'obj.data')
    message = str(error.value)
    assert '1 of the 2 images' in message
    assert f'{tmp_path}/obj_train_data/a.jpg: the image does not exist' in message
    assert f'looked for from {tmp_path}, {tmp_path.parent}' in message
    assert list_labels(build_yolo(tmp_path, 'obj.data', skip_broken=True)) == {
        'b (1).jpg': [1]
    }
    assert '1 of the 2 images' in log[0]


def test_windows_paths_in_a_list(tmp_path):
    write_darknet(tmp_path)
    entries = (r'data\obj_train_data\a.jpg', 'obj_train_data/c.jpg')
    write_text(tmp_path / 'train.txt', *entries, end='\r\n')
    assert list_labels(build_yolo(tmp_path, 'obj.data')) == {
        'a.jpg': [0, 1],
        'c.jpg': [0],
    }


def test_obj_data_that_names_a_folder_and_a_list_of_another_suffix(tmp_path):
    write_darknet(tmp_path)
    (tmp_path / 'valid.txt').rename(tmp_path / 'valid.list')
    lines = ('train = obj_train_data', 'val = valid.list', 'names = obj.names')
    write_text(tmp_path / 'obj.data', *lines)
    assert len(build_yolo(tmp_path, 'obj.data')) == 3
    assert len(build_yolo(tmp_path, 'obj.data', split='val')) == 1


# --------------------------------------------------------------- where the labels lie


@pytest.mark.parametrize('name', ['images', 'JPEGImages'])
def test_parallel_labels_before_those_beside(tmp_path, name):
    image = write_labelled(tmp_path / name / 'x' / 'a.jpg', 0)
    other = write_labelled(tmp_path / name / 'y' / 'b.jpg', 0)
    beside = {str(p): str(p.with_suffix('.txt')) for p in (image, other)}
    assert find_label_files(beside) == beside
    parallel = tmp_path / 'labels' / 'x'
    parallel.mkdir(parents=True)
    assert find_label_files(beside) == beside | {str(image): f'{parallel}/a.txt'}


def test_folders_of_labels_are_looked_for_once(monkeypatch):
    """However many images there are: 100,000 of them in ten folders."""
    asked = []
    isdir = os.path.isdir
    monkeypatch.setattr(
        yolo_labels.os.path, 'isdir', lambda path: asked.append(path) or isdir(path)
    )
    images = [f'/nowhere/images/{i % 10}/{i}.jpg' for i in range(100_000)]
    files = find_label_files(images)
    assert files[images[7]] == '/nowhere/labels/7/7.txt' and len(files) == 100_000
    assert len(asked) == 20


# -------------------------------------------------------------- a file of names alone


def test_roboflow_darknet(tmp_path):
    for split, numbers in (('train', [0, 1]), ('valid', [1])):
        write_labelled(tmp_path / split / 'a_jpg.rf.1f2e.jpg', *numbers)
        write_text(tmp_path / split / '_darknet.labels', 'cat', 'dog')
    for split, labels in (('train', [0, 1]), ('valid', [1])):
        dataset = build_yolo(
            tmp_path, f'{split}/_darknet.labels', data_prefix=dict(img=split)
        )
        assert list_labels(dataset) == {'a_jpg.rf.1f2e.jpg': labels}
        assert dataset.metainfo['classes'] == ('cat', 'dog')
    caches = [path.name for path in tmp_path.glob('*cache.json')]
    assert sorted(caches) == [
        f'{split}.train.mmnextvit-cache.json' for split in ('train', 'valid')
    ]


@pytest.mark.parametrize('name', ['labels/classes.txt', 'classes.txt', 'obj.names'])
def test_images_and_labels_with_a_file_of_names(tmp_path, name):
    labels = tmp_path / 'labels'
    for image, number in (('a', 0), ('b', 1), ('classes', 0)):
        write_labelled(tmp_path / 'images' / f'{image}.jpg', number, labels=labels)
    write_text(tmp_path / name, '\ufeffcat', ' dog ', '', ' ', end='\r\n')
    # The label file of the third image would be the file of names; there is none.
    if name != 'labels/classes.txt':
        (labels / 'classes.txt').unlink()
    dataset = build_yolo(tmp_path, name, data_prefix=dict(img='images'))
    assert list_labels(dataset) == {
        'a.jpg': [0],
        'b.jpg': [1],
        'classes.jpg': [],
    }
    assert dataset.metainfo['classes'] == ('cat', 'dog')


def test_texts_that_are_no_labels(tmp_path, log):
    """Names and lists have the names of images beside them."""
    for name in ('a', 'classes', 'train', 'x'):
        write_labelled(tmp_path / f'{name}.jpg', 0)
    write_text(tmp_path / 'classes.txt', 'cat')
    write_text(tmp_path / 'train.txt', 'a.jpg', 'classes.jpg', 'train.jpg')
    dataset = build_yolo(tmp_path, 'classes.txt', data_prefix=dict(img='train.txt'))
    expected = {'a.jpg': [0], 'classes.jpg': [], 'train.jpg': []}
    assert list_labels(dataset) == expected
    write_text(tmp_path / 'x.txt', 'cat')
    dataset = build_yolo(tmp_path, 'x.txt', data_prefix=dict(img=['train.txt', '']))
    assert list_labels(dataset) == expected | {'x.jpg': []}
    write_text(tmp_path / 'data.yaml', 'train: train.txt', 'names: [cat]')
    assert list_labels(build_yolo(tmp_path, 'data.yaml')) == expected
    texts, twice = ([x for x in log if y in x] for y in ('no label', 'listed twice'))
    assert len(log) == len(texts) + 1 and '3 images listed twice' in twice[0]
    counts = [line.partition(' images')[0] for line in texts]
    assert counts == ['2 of the 3', '3 of the 4', '2 of the 3']


def test_several_folders_and_the_place_of_the_cache(tmp_path):
    for folder in ('one', 'two'):
        write_labelled(tmp_path / folder / f'{folder}.png', 0)
    write_text(tmp_path / 'names.txt', 'cat')
    prefix = dict(img=['one', str(tmp_path / 'two')])
    dataset = build_yolo(tmp_path, 'names.txt', data_prefix=prefix)
    assert list_labels(dataset) == {'one.png': [0], 'two.png': [0]}
    assert len(build_yolo(tmp_path, 'names.txt', data_prefix=dict(img=''))) == 2
    assert [path.name for path in sorted(tmp_path.glob('*.json'))] == [
        'one.train.mmnextvit-cache.json',
        f'{tmp_path.name}.train.mmnextvit-cache.json',  # not outside of the data
    ]


def test_images_that_are_named_nowhere(tmp_path):
    write_labelled(tmp_path / 'images' / 'a.jpg', 0)
    write_text(tmp_path / 'classes.txt', 'cat')
    with pytest.raises(UserError, match=r'classes.txt: .*set data_prefix=dict\(img='):
        build_yolo(tmp_path, 'classes.txt')
    with pytest.raises(MissingFileError, match=f'{tmp_path}/imgs does not exist'):
        build_yolo(tmp_path, 'classes.txt', data_prefix=dict(img='imgs'))


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['cat', '', 'dog'], ':2: the line is empty, so that class 1 has no name'),
        (['', '  '], ': the file names no class'),
        (['cat', 'dog', 'cat'], ":3: 'cat' stands here 2 times"),
        ([f'0 {BOX}', f'1 {BOX}'], ": names of .*the file holds an image's labels"),
        (['a.jpg', 'b.JPG'], ": .*the file lists images, as 'a.jpg'"),
        (['{"a": 1}'], ': .*the file is JSON or XML'),
        (['a\0b'], ': the file is not text: it holds NUL'),
    ],
)
def test_files_that_are_no_names(tmp_path, lines, message):
    path = write_text(tmp_path / 'classes.txt', *lines)
    with pytest.raises(UserError, match=f'classes.txt{message}') as error:
        read_names_file(path)
    assert error.value.file == path


def test_names_that_look_odd(tmp_path):
    names = ('0', '1.5', '1 2', 'a.jpg', 'größe', '猫', 'no', '# x')
    path = write_text(tmp_path / 'obj.names', *names)
    assert read_names_file(path) == names
    path.write_bytes('größe'.encode('latin1'))
    with pytest.raises(UserError, match='obj.names: the file is not text in UTF-8'):
        read_names_file(path)


def test_names_of_images(tmp_path):
    """Spaces, brackets, suffixes in upper case, other alphabets."""
    images = ['a b (1).JPG', '[x] & y.jpeg', '猫 кот.PNG', "it's 50%.Jpg", 'a.b.c.jpg']
    for number, name in enumerate(images):
        image = tmp_path / 'мои images' / 'images' / name
        write_labelled(image.with_suffix('.jpg'), number % 2).rename(image)
    write_text(tmp_path / 'мои images' / 'obj.names', 'кот', '犬')
    write_text(tmp_path / 'list.txt', *(f'images/{name}' for name in images))
    (tmp_path / 'мои images' / 'list.txt').hardlink_to(tmp_path / 'list.txt')
    for prefix in ('мои images', 'мои images/list.txt'):
        dataset = build_yolo(
            tmp_path, 'мои images/obj.names', data_prefix=dict(img=prefix)
        )
        assert list_labels(dataset) == {name: [i % 2] for i, name in enumerate(images)}
        assert dataset.metainfo['classes'] == ('кот', '犬')


# ------------------------------------------------------------------------- class_ids


@pytest.fixture
def label_img(tmp_path):
    """LabelImg's default names, of which the last alone is used; but for one line."""
    for name, numbers in (('a', [15, 15]), ('b', [15]), ('c', [0, 15])):
        write_labelled(
            tmp_path / 'images' / f'{name}.jpg', *numbers, labels=tmp_path / 'labels'
        )
    write_text(tmp_path / 'labels' / 'classes.txt', *DEFAULT_NAMES)

    def build(*class_ids, classes=None, ann_file='labels/classes.txt', **cfg):
        metainfo = dict(metainfo=dict(classes=classes)) if classes else {}
        return build_yolo(
            tmp_path,
            ann_file,
            data_prefix=dict(img='images'),
            class_ids=class_ids or None,
            **metainfo,
            **cfg,
        )

    return build


def test_class_ids(label_img, tmp_path, log):
    dataset = label_img(15, classes=('mine',))
    assert list_labels(dataset) == {'a.jpg': [0, 0], 'b.jpg': [0], 'c.jpg': [0]}
    assert dataset.metainfo['classes'] == ('mine',)
    (line,) = log
    assert line.startswith(f'{tmp_path}/labels/classes.txt ({tmp_path}/images): 1 ')
    assert '1 lines of other numbers than class_ids (left out): ' in line
    assert line.endswith(f'{tmp_path}/labels/c.txt:1')
    assert measure_truth(list_infos(dataset), dataset.metainfo)['coco/bbox_mAP'] == 1
    log.clear()
    dataset = label_img(15, 0)  # the names come from the file, in this order
    assert dataset.metainfo['classes'] == ('mine', 'dog')
    assert list_labels(dataset)['c.jpg'] == [1, 0]
    assert not log
    assert label_img().metainfo['classes'] == tuple(DEFAULT_NAMES)


def test_class_ids_leave_the_scan_as_it_is(label_img, monkeypatch):
    names = []
    monkeypatch.setattr(
        yolo_scan,
        'read_image_size',
        lambda path: names.append(path) or read_image_size(path),
    )
    label_img(15, classes=('mine',))
    assert len(names) == 3
    assert list_labels(label_img())['c.jpg'] == [0, 15]
    assert list_labels(label_img(0))['c.jpg'] == [0]
    assert len(names) == 3


def test_listed_images_of_one_folder(label_img, tmp_path):
    """Both lists keep their scan; labels of others do not concern a list."""
    write_text(tmp_path / 'train.txt', 'images/a.jpg', 'images/b.jpg')
    write_text(tmp_path / 'val.txt', f'{tmp_path}/images/c.jpg')
    write_text(tmp_path / 'labels/b.txt', 'broken')
    dataset = label_img(15, image_list='val.txt', test_mode=True)
    assert list_labels(dataset) == {'c.jpg': [0]}
    with pytest.raises(UserError, match='1 broken lines'):
        label_img(15, image_list='train.txt')
    assert sorted(path.name for path in tmp_path.glob('*.json')) == [
        f'images.train.{name}.mmnextvit-cache.json' for name in ('train', 'val')
    ]


@pytest.mark.parametrize(
    ('ids', 'classes', 'message'),
    [
        ((14,), ('mine',), r"they are \('cavity',\) at class_ids=\[14\], the config"),
        ((15, 0), ('dog', 'mine'), r"Write metainfo=dict\(classes=\('mine', 'dog'\)\)"),
        ((16,), ('mine',), 'number 16: no class has it, they are 0 to 15'),
        ((-1,), ('mine',), 'number -1: no class has it'),
        ((1.0,), ('mine',), 'number 1.0: no class has it'),
        ((15, 15), ('mine', 'mine'), 'number 15 twice'),
        ((15,), ('dog', 'mine'), "the config has .'dog', 'mine'.. Write"),
        (None, ('mine',), "they are .'dog', 'person'"),
    ],
)
def test_class_ids_that_do_not_fit(label_img, ids, classes, message):
    with pytest.raises(UserError, match=f'classes.txt.*{message}'):
        label_img(*(ids or ()), classes=classes)


def test_class_ids_that_are_no_numbers(tmp_path, label_img):
    for ids in (3, 'ab', []):
        with pytest.raises(UserError, match='write the numbers of the classes'):
            build_yolo(tmp_path, 'labels/classes.txt', class_ids=ids)


def test_two_classes_of_one_name(label_img, tmp_path):
    """Roboflow's parent has the name of its class; only the class owns boxes."""
    write_text(tmp_path / 'labels/classes.txt', *DEFAULT_NAMES[:-1], 'dog')
    with pytest.raises(UserError, match="classes.txt:16: 'dog' stands here 2 times"):
        label_img()
    assert list_labels(label_img(15, classes=('dog',)))['a.jpg'] == [0, 0]
    with pytest.raises(UserError, match='names dog twice'):
        label_img(0, 15)
    names = ', '.join([*DEFAULT_NAMES[:-1], 'dog'])
    path = write_text(tmp_path / 'data.yaml', 'train: images', f'names: [{names}]')
    with pytest.raises(UserError, match="data.yaml:2: names: 'dog' stands here 2"):
        read_data_yaml(path)
    dataset = label_img(15, classes=('dog',), ann_file='data.yaml')
    assert list_labels(dataset)['a.jpg'] == [0, 0]


def test_class_ids_of_data_yaml_and_darknet(tmp_path):
    write_darknet(tmp_path)
    write_text(tmp_path / 'data.yaml', 'train: train.txt', 'names: [cat, dog]')
    for ann_file in ('obj.data', 'data.yaml'):
        dataset = build_yolo(
            tmp_path, ann_file, class_ids=[1], metainfo=dict(classes=['dog'])
        )
        assert list_labels(dataset) == {'a.jpg': [0], 'b (1).jpg': [0]}
        with pytest.raises(UserError, match='the config has .*bird'):
            build_yolo(
                tmp_path, ann_file, class_ids=[1], metainfo=dict(classes=['bird'])
            )


def test_boxes_of_other_classes_among_polygons(tmp_path):
    write_labelled(tmp_path / 'a.jpg', 0)
    write_text(tmp_path / 'a.txt', f'0 {BOX}', '1 0.1 0.1 0.5 0.1 0.5 0.5')
    write_text(tmp_path / 'obj.names', 'cat', 'dog')
    cfg = dict(data_prefix=dict(img=''), polygons=True)
    assert len(build_yolo(tmp_path, 'obj.names', class_ids=(1,), **cfg)) == 1
    with pytest.raises(UserError, match='are boxes, but masks need polygons'):
        build_yolo(tmp_path, 'obj.names', **cfg)


def test_lists_whose_first_entries_are_missing(tmp_path):
    write_labelled(tmp_path / 'sub' / 'images' / 'a.jpg', 0)
    path = write_text(
        tmp_path / 'lists' / 'train.txt', 'images/gone.jpg', 'images/a.jpg', './b.jpg'
    )
    assert find_images(str(path), [str(tmp_path / 'sub')]) == [
        str(tmp_path / 'sub/images/gone.jpg'),
        str(tmp_path / 'sub/images/a.jpg'),
        str(tmp_path / 'lists/b.jpg'),
    ]
