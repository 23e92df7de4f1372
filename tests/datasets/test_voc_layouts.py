"""Pascal VOC data as they lie about: suffixes, names of folders, no ImageSets."""

import os
from collections.abc import Callable
from pathlib import Path

from mmnextvit.datasets.voc import choose_image
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

XML = """<annotation>{filename}
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>{name}</name><difficult>0</difficult><bndbox>
<xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>25</ymax>
</bndbox></object></annotation>"""


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')


def add_image(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, number)


def add_xml(path: Path, filename: str | None = None, name: str = 'cat') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = '' if filename is None else f'<filename>{filename}</filename>'
    path.write_text(XML.format(filename=tag, name=name), encoding='utf-8')


def build(root: Path, **cfg: object):
    given = dict(type='VerifiedVOCDataset', metainfo=dict(classes=('cat',)))
    return build_dataset(root, **(given | cfg))


def list_paths(dataset) -> list[str]:
    return [os.path.normpath(info['img_path']) for info in list_infos(dataset)]


# --------------------------------------------------------------------- names of images


@pytest.mark.slow
@pytest.mark.parametrize(
    ('image', 'filename'),
    [
        ('1.png', None),
        ('1.png', ''),
        ('1.JPG', '1.jpg'),
        ('1.JPEG', '1'),
        ('1.bmp', 'whatever'),
        ('1.tif', '/home/me/photos/1.tif'),
        ('1.png', 'C:\\photos\\1.jpg'),
        ('1.webp', '2.jpg'),  # of another image, which is there
        ('7.png', '7.png'),
        ('7.PNG', '7'),
        ('7.jpeg', 'photos/7'),
        ('7.png', '7.jpg'),
        ('7.v2.png', '7.v2.png'),
    ],
)
@pytest.mark.parametrize('from_list', [False, True])
def test_the_image_of_an_annotation(tmp_path, log, image, filename, from_list):
    add_xml(tmp_path / 'Annotations' / '1.xml', filename)
    add_xml(tmp_path / 'Annotations' / '2.xml')
    add_image(tmp_path / 'JPEGImages' / image, 1)
    add_image(tmp_path / 'JPEGImages' / '2.jpg', 2)
    (tmp_path / 'list.txt').write_text('1\n2\n')
    dataset = build(tmp_path, ann_file='list.txt' if from_list else 'Annotations')
    folder = tmp_path / 'JPEGImages'
    assert list_paths(dataset) == [f'{folder}/{image}', f'{folder}/2.jpg']
    assert dataset[0]['img'].shape == (48, 64, 3)
    assert not log


@pytest.mark.parametrize(
    ('filename', 'images', 'wanted'),
    [
        ('2.jpg', [], '1.jpg'),  # another annotation's image is not taken
        ('2', [], '1.jpg'),
        ('', [], '1.jpg'),
        ('3.png', [], '1.png'),
        ('3', [], '1.jpg'),
    ],
)
def test_an_image_that_is_missing(tmp_path, filename, images, wanted):
    add_xml(tmp_path / 'Annotations' / '1.xml', filename)
    add_xml(tmp_path / 'Annotations' / '2.xml')
    add_image(tmp_path / 'JPEGImages' / '2.jpg')
    with pytest.raises(MissingFileError, match='1 of the 2 images') as error:
        build(tmp_path, ann_file='Annotations')
    assert f'are missing: {tmp_path}/JPEGImages/{wanted}.' in str(error.value)
    assert "Set img_subdir (now 'JPEGImages'), data_prefix (now" in str(error.value)


@pytest.mark.parametrize(
    ('known', 'stated', 'wanted'),
    [
        (['1.png'], '1.jpg', '1.png'),
        (['1.png', '1.jpg'], '1.png', '1.png'),
        (['1.png', '1.jpg'], '2.png', '1.jpg'),
        (['1.bmp', '1.png'], '', '1.bmp'),
        (['2.jpg'], '2.jpg', '2.jpg'),
        (['2.jpg', '2.png'], '2.png', '2.png'),
        (['taken.jpg'], 'taken.jpg', '1.jpg'),
        ([], '2.PNG', '1.PNG'),
        ([], '2.html', '1.jpg'),
    ],
)
def test_choice_of_an_image(known, stated, wanted):
    names: dict[str, list[str]] = {}
    for name in known:
        for key in (name, name[:-4]):
            names.setdefault(key, []).append(name)
    chosen = choose_image('1', lambda: stated, names, lambda stem: stem == 'taken')
    assert chosen == wanted


def test_annotations_are_read_once_where_names_agree(tmp_path, monkeypatch):
    """A hundred thousand of them are not read for the names of their images."""
    for i in range(3):
        add_xml(tmp_path / 'Annotations' / f'{i}.xml')
        add_image(tmp_path / 'JPEGImages' / f'{i}.png', i)
    read = []

    def count(path: str, *args: object) -> bytes:
        read.append(os.path.basename(path))
        return Path(path).read_bytes()

    monkeypatch.setattr('mmnextvit.datasets.voc.read_bytes', count)
    build(tmp_path, ann_file='Annotations')
    assert read == ['0.xml', '1.xml', '2.xml']


@pytest.mark.parametrize('many', [3, 4])
def test_many_annotations_are_read_with_progress(tmp_path, monkeypatch, capsys, many):
    monkeypatch.setattr('mmnextvit.datasets.voc.MANY', many)
    for i in range(3):
        add_xml(tmp_path / 'Annotations' / f'{i}.xml')
        add_image(tmp_path / 'JPEGImages' / f'{i}.jpg', i)
    build(tmp_path, ann_file='Annotations')
    assert ('Reading the annotations of' in capsys.readouterr().out) == (many == 3)


# -------------------------------------------------------------------- names of folders

ODD_NAMES = (
    'a b',
    'IMG_1 (2) [x]',
    '猫 ёж',
    'a.b.c_jpg.rf.0f3a',
    '#50%',
    '0',
)
SUFFIXES = ('.jpg', '.JPG', '.png', '.JPEG', '.bmp', '.PNG')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('xml', 'images', 'cfg'),
    [
        ('Annotations', 'JPEGImages', dict(ann_file='Annotations/')),
        ('annotations', 'images', dict(ann_file='annotations', img_subdir='images')),
        ('annots', 'images', dict(ann_file='annots/', img_subdir='images/')),
        ('xml', '.', dict(ann_file='xml', img_subdir='')),
        ('.', '.', dict(ann_file='./', img_subdir='')),
        ('.', '.', dict(ann_file='.', img_subdir='.')),
        ('train', 'train', dict(ann_file='train/', img_subdir='train')),
        ('annotations/train', 'images/train',
         dict(ann_file='annotations/train', img_subdir='images/train')),
        ('Annotations', 'JPEGImages', dict(ann_file='list.txt')),
        ('annots', 'images',
         dict(ann_file='list.txt', ann_subdir='annots', img_subdir='images')),
        ('.', '.', dict(ann_file='list.txt', ann_subdir='', img_subdir='')),
        ('VOC2007/Annotations', 'VOC2007/JPEGImages',
         dict(ann_file='list.txt', data_prefix=dict(sub_data_root='VOC2007/'))),
        ('VOC2007/Annotations', 'VOC2007/JPEGImages',
         dict(ann_file='VOC2007/Annotations',
              data_prefix=dict(sub_data_root='VOC2007/'))),
        # What a config inherits from one of COCO does no harm.
        ('Annotations', 'JPEGImages',
         dict(ann_file='list.txt', data_prefix=dict(img='train2017/'))),
    ],
)  # fmt: skip
def test_layouts(tmp_path, log, monkeypatch, xml, images, cfg):
    monkeypatch.chdir('/')
    for number, (name, suffix) in enumerate(zip(ODD_NAMES, SUFFIXES)):
        add_xml(tmp_path / xml / f'{name}.xml')
        add_image(tmp_path / images / f'{name}{suffix}', number)
    add_xml(tmp_path / xml / '.hidden.xml')
    (tmp_path / 'list.txt').write_text('\n'.join(ODD_NAMES), encoding='utf-8')
    shape = dict(type='BatchShapePolicy', batch_size=2, img_size=64)
    for more in ({}, dict(test_mode=True, batch_shapes_cfg=shape)):
        dataset = build(tmp_path, **cfg, **more)
        assert list_boxes(dataset) == [[4, 4, 24, 24]] * 6
        assert sorted(i['img_id'] for i in list_infos(dataset)) == sorted(ODD_NAMES)
        assert all(dataset[i]['img'].shape == (48, 64, 3) for i in range(6))
    infos = list_infos(dataset)
    assert all(tuple(info['batch_shape']) == (64, 96) for info in infos)
    assert measure_truth(infos, dataset.metainfo)['coco/bbox_mAP'] == 1
    assert not log


def test_annotations_in_folders_below(tmp_path):
    for folder in ('a', 'b/c'):
        add_xml(tmp_path / 'xml' / folder / '1.xml')
        add_image(tmp_path / 'images' / folder / '1.png')
    dataset = build(tmp_path, ann_file='xml', img_subdir='images')
    assert list_paths(dataset) == [
        f'{tmp_path}/images/{folder}/1.png' for folder in ('a', 'b/c')
    ]
    assert [info['img_id'] for info in list_infos(dataset)] == ['a/1', 'b/c/1']
    (tmp_path / 'list.txt').write_text('b/c/1\n')
    dataset = build(
        tmp_path, ann_file='list.txt', ann_subdir='xml', img_subdir='images'
    )
    assert list_paths(dataset) == [f'{tmp_path}/images/b/c/1.png']


def test_upper_case_suffix_of_annotations(tmp_path):
    add_xml(tmp_path / 'xml' / '1.XML')
    add_image(tmp_path / 'images' / '1.jpg')
    dataset = build(tmp_path, ann_file='xml', img_subdir='images')
    assert list_paths(dataset) == [f'{tmp_path}/images/1.jpg']


@pytest.mark.parametrize('made', [False, True])
def test_a_folder_without_annotations(tmp_path, made):
    if made:
        add_image(tmp_path / 'xml' / '1.jpg')
        with pytest.raises(UserError, match='/xml: the folder holds no .xml file'):
            build(tmp_path, ann_file='xml')
    else:
        with pytest.raises(MissingFileError, match='/xml: the annotation file does no'):
            build(tmp_path, ann_file='xml')


def test_other_xml_in_the_folder_is_named(tmp_path):
    add_xml(tmp_path / '1.xml')
    add_image(tmp_path / '1.jpg')
    (tmp_path / 'annotations.xml').write_text('<annotations><image/></annotations>')
    with pytest.raises(UserError, match='annotations.xml: the file is no Pascal VOC'):
        build(tmp_path, ann_file='./', img_subdir='')


def test_a_size_that_only_the_image_has(tmp_path):
    """In the batch shapes, too, whatever the image's suffix."""
    add_xml(tmp_path / 'xml' / '1.xml')
    path = tmp_path / 'xml' / '1.xml'
    path.write_text(path.read_text().replace('64', '0').replace('48', '0'))
    add_image(tmp_path / 'images' / '1.png')
    shape = dict(type='BatchShapePolicy', batch_size=2, img_size=64)
    cfg = dict(test_mode=True, batch_shapes_cfg=shape)
    dataset = build(tmp_path, ann_file='xml', img_subdir='images', **cfg)
    (info,) = list_infos(dataset)
    assert (info['width'], info['height']) == (64, 48)
    assert tuple(info['batch_shape']) == (64, 96)


# ------------------------------------------------------------------------------- lists


@pytest.fixture
def main(tmp_path) -> Callable[[str, str], Path]:
    """Three images, and a list of ImageSets/Main that a test writes."""
    for i in ('1', '2', 'my cat 1'):
        add_xml(tmp_path / 'Annotations' / f'{i}.xml')
        add_image(tmp_path / 'JPEGImages' / f'{i}.jpg')
    (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)

    def write(name: str, text: str) -> dict:
        (tmp_path / 'ImageSets' / 'Main' / name).write_text(text)
        return dict(root=tmp_path, ann_file=f'ImageSets/Main/{name}')

    return write


@pytest.mark.parametrize('text', ['1 1\n2 -1\n', '1  1\r\n2 -1\r\n', '1 -1', '2\t0'])
def test_lists_of_a_class(main, text):
    with pytest.raises(UserError, match='cat_trainval.txt: this is a list of') as error:
        build(**main('cat_trainval.txt', text))
    assert 'to a plain list of names, as trainval.txt in that' in str(error.value)


def test_names_that_look_like_a_list_of_a_class(main):
    assert len(build(**main('val.txt', 'my cat 1\n'))) == 1
    with pytest.raises(MissingFileError, match='1 of the 2 annotation files'):
        build(**main('val.txt', 'my cat 1\nmy dog 1\n'))
    with pytest.raises(MissingFileError, match='1 of the 2 annotation files'):
        build(**main('val.txt', '1 1\n2\n'))


@pytest.mark.parametrize('text', ['1.jpg\n2.JPG\n', '1.xml\n2.xml\n', '\ufeff1\r\n2'])
def test_lists_of_files(main, text):
    dataset = build(**main('val.txt', text))
    assert [info['img_id'] for info in list_infos(dataset)] == ['1', '2']


def test_a_list_of_what_is_not_there(main):
    with pytest.raises(MissingFileError) as error:
        build(**main('val.txt', '1.jpg\n5.jpg\n'))
    assert '1 of the 2 annotation files' in str(error.value)
    assert '/Annotations/5.jpg.xml. Set data_root' in str(error.value)
