"""Pascal VOC data: every test reads the message that a user would get."""

import json
from pathlib import Path

import mmnextvit  # noqa: F401  (registers what the tests build)
from mmnextvit.utils.errors import UserError

import pytest
from mmengine.registry import init_default_scope
from mmyolo.registry import DATASETS

from tests.helpers.bad_data import list_boxes, list_infos

BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd'


def test_good_voc_data(voc, log):
    voc.write(3, name='dog', difficult=1)
    dataset = voc.build()
    assert list_boxes(dataset) == [[4, 4, 24, 24]] * 4
    boxes = [dataset.get_data_info(i)['instances'][0] for i in range(4)]
    assert [box['bbox_label'] for box in boxes] == [0, 1, 0, 1]
    assert [box['ignore_flag'] for box in boxes] == [0, 0, 0, 1]
    assert not log


@pytest.mark.slow
@pytest.mark.parametrize(
    ('values', 'fault'),
    [
        (dict(xmin=25), 'of zero or negative size'),
        (dict(xmin=30), 'of zero or negative size'),
        (dict(xmin='nan'), 'NaN or infinite'),
        (dict(xmax='inf'), 'NaN or infinite'),
        (dict(xmin=65, xmax=80), 'outside the image'),
    ],
)
def test_bad_voc_box(voc, log, values, fault):
    voc.write(2, **values)
    assert list_boxes(voc.build()) == [[4, 4, 24, 24]] * 3
    assert log == [f'{voc.root}/train.txt: boxes dropped: 1 {fault} (2.xml)']


def test_voc_image_size_of_zero_is_read_from_the_image(voc):
    voc.write(2, width=0)
    assert voc.build().get_data_info(2)['width'] == 64


def test_voc_class_that_is_misspelt(voc):
    with pytest.raises(ValueError) as error:
        voc.build(classes=('cat', 'Dog'))
    message = str(error.value)
    assert "never name the class 'Dog'" in message and 'they name dog (2)' in message
    assert "metainfo=dict(classes=('cat', 'dog')), num_classes=2" in message


def test_voc_class_that_is_never_met(voc, log):
    voc.build(classes=('cat', 'dog', 'bird'))
    assert log == [f"{voc.root}/train.txt: no box of the class 'bird'"]


def test_voc_names_that_are_no_classes(voc, log):
    assert len(list_boxes(voc.build(classes=('cat',)))) == 2
    (line,) = log
    assert line.endswith('names are no classes of the config are ignored: dog (2)')


def test_missing_voc_files(voc):
    with pytest.raises(
        FileNotFoundError,
        match='typo.txt: the annotation file does not exist: set ann_file',
    ):
        voc.build(ann_file='typo.txt')
    (voc.root / 'JPEGImages' / '1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 4 images .*1.jpg'):
        voc.build()
    (voc.root / 'Annotations' / '2.xml').unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 4 annotation files.*2.xml'):
        voc.build()
    (voc.root / 'train.txt').write_text('\n')
    with pytest.raises(ValueError, match='train.txt: the annotation file is empty'):
        voc.build()


@pytest.mark.parametrize('text', ['', '<annotation><object/></annotation>'])
def test_broken_voc_annotation(voc, text):
    (voc.root / 'Annotations' / '2.xml').write_text(text)
    with pytest.raises(
        ValueError, match='2.xml:?1?: the file is no Pascal VOC annotation'
    ):
        voc.build()


def write(voc, *parts, number=2):
    """An annotation with the given parts: a size, objects."""
    path = voc.root / 'Annotations' / f'{number}.xml'
    path.write_text(f'<annotation>{"".join(parts)}</annotation>')


SIZE = '<size><width>64</width><height>48</height></size>'


def make_object(name='cat', box=(5, 5, 25, 25), more=''):
    sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), box)
    box = ''.join(f'<{side}>{value}</{side}>' for side, value in sides)
    return f'<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object>'


@pytest.mark.slow
@pytest.mark.parametrize(
    'parts',
    [
        (SIZE, make_object(box=('5.0', ' 5 ', '2.5e1', '\n25\n'))),
        (SIZE, make_object('\n  cat\n')),
        (SIZE, make_object(more='<difficult>0</difficult>')),
        (SIZE, make_object(more='<difficult>false</difficult>')),
        (SIZE, make_object(more='<difficult/>')),
        (SIZE, make_object(more='<part><name>ear</name></part>')),
        (make_object(),),
        ('<size/>', make_object()),
        ('<size><width>0</width><height>0</height></size>', make_object()),
        ('<size><width>64.0</width><height> 48 </height></size>', make_object()),
    ],
)
def test_voc_values_that_are_plain(voc, log, parts):
    write(voc, *parts)
    dataset = voc.build()
    info = dataset.get_data_info(2)
    assert (info['width'], info['height']) == (64, 48)
    assert info['instances'] == [dict(bbox=[4, 4, 24, 24], bbox_label=0, ignore_flag=0)]
    assert not log


LONG = 'long' * 100_000


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (('<size><width>wide</width></size>',), "size: 'wide' is no number"),
        (
            ('<size><width>64.5</width><height>48</height></size>',),
            "its size: '64.5' is no size",
        ),
        (
            ('<size><width>-4</width><height>48</height></size>',),
            "its size: '-4' is no size",
        ),
        (
            ('<size><width>nan</width><height>48</height></size>',),
            "its size: 'nan' is no size",
        ),
        ((SIZE, '<object/>'), 'object 1: it has no name'),
        ((SIZE, make_object('')), 'object 1: it has no name'),
        (
            (SIZE, make_object(), '<object><name>dog</name></object>'),
            "object 2: 'dog': it has no bndbox/xmin",
        ),
        ((SIZE, make_object(box=(5, 5, 9))), "object 1: 'cat': it has no bndbox/ymax"),
        ((SIZE, make_object(box=(5, '', 9, 9))), 'it has no bndbox/ymin'),
        ((SIZE, make_object(box=(5, 5, 'x', 9))), "'cat': 'x' is no number"),
        ((SIZE, make_object(box=(5, 5, LONG, 9))), "'longlong.*long' is no number"),
        ((SIZE, make_object(LONG, box=())), "'longlong.*long': it has no bndbox/xmin"),
        (
            (SIZE, make_object(more='<difficult>perhaps</difficult>')),
            "'perhaps' is neither 0 nor 1",
        ),
    ],
)
def test_voc_values_that_are_not(voc, parts, message):
    write(voc, *parts)
    with pytest.raises(
        UserError, match=rf'2.xml: the file is no Pascal VOC annotation: .*{message}'
    ) as error:
        voc.build()
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    'text',
    [
        '<html><object/></html>',
        '<a:annotation xmlns:a="b"/>',
        '{"images": []}',
        '<annotation>' * 3,
        f'<{LONG}/>',
        '<?xml version="1.0" encoding="klingon"?><annotation/>',
        '<annotation>\x00</annotation>',
    ],
)
def test_files_that_are_no_voc_annotation(voc, text):
    (voc.root / 'Annotations' / '2.xml').write_text(text)
    with pytest.raises(UserError, match='2.xml:?\\d?: the file is no Pascal VOC') as e:
        voc.build()
    assert len(str(e.value)) < 700


@pytest.mark.slow
def test_voc_boxes_that_are_not_counted(voc):
    write(voc, SIZE, make_object(more='<difficult>1</difficult>'),
          make_object(box=(5, 5, 8, 40)))  # fmt: skip
    boxes = voc.build(filter_cfg=dict(bbox_min_size=5)).get_data_info(2)['instances']
    assert [box['ignore_flag'] for box in boxes] == [1, 1]
    boxes = voc.build().get_data_info(2)['instances']
    assert [box['ignore_flag'] for box in boxes] == [1, 0]


@pytest.mark.slow
def test_voc_data_are_those_of_mmyolo(voc):
    voc.write(3, name='dog', difficult=1)
    ours, theirs = voc.build(), voc.build(type='YOLOv5VOCDataset')
    added = dict(size_measured=False)  # by ours, for LoadImageFromFile
    assert list_infos(ours) == [info | added for info in list_infos(theirs)]


@pytest.mark.slow
@pytest.mark.parametrize('start', ['\ufeff', '\n\n', '', '  '])
def test_lists_of_voc_names(voc, start):
    """With a mark of the byte order, empty lines, other line ends."""
    (voc.root / 'train.txt').write_bytes(f'{start}0\r\n1 \r\n\r\n2\n3\n\n'.encode())
    assert [info['img_id'] for info in list_infos(voc.build())] == list('0123')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (json.dumps(dict(images=[LONG])).encode(), 'a list .* JSON or XML: \'{"images'),
        (json.dumps([dict(images=1)], indent=2).encode(), 'a list of names'),
        (b'<annotation/>', 'a list of names'),
        (b'\xff\xfe0', 'the file is not text in UTF-8'),
        (b'0\n\x001\n', 'the file is not text: it holds NUL'),
        (
            LONG.encode(),
            r'1 of the 1 annotation files that .* are missing: .*long\.xml',
        ),
    ],
)
def test_what_is_no_list_of_voc_names(voc, content, message):
    (voc.root / 'train.txt').write_bytes(content)
    with pytest.raises(ValueError, match=f'train.txt.*{message}|{message}') as error:
        voc.build()
    assert len(str(error.value)) < 1200


@pytest.mark.slow
def test_names_of_voc_objects_are_shortened(voc, log):
    for i in range(4):
        write(voc, SIZE, *(make_object(f'{LONG}{i}{j}') for j in range(30)), number=i)
    write(voc, SIZE, make_object(), number=3)
    with pytest.raises(UserError, match='never name the class') as error:
        voc.build()
    write(voc, SIZE, make_object(), make_object('dog'), make_object(LONG))
    voc.build()
    assert max(map(len, [str(error.value), *log])) < 8000


if BCCD.is_dir():  # real images with two real faults

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ('split', 'images', 'boxes', 'culprit'),
        [
            ('train', 205, 2804, 'BloodImage_00343.xml'),
            ('val', 87, 1137, 'BloodImage_00338.xml'),
            ('test', 72, 945, None),
        ],
    )
    def test_bccd(log, split, images, boxes, culprit):
        init_default_scope('mmyolo')
        dataset = DATASETS.build(
            dict(
                type='VerifiedVOCDataset',
                data_root=str(BCCD),
                ann_file=f'ImageSets/Main/{split}.txt',
                data_prefix=dict(sub_data_root=''),
                metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
            )
        )
        assert len(dataset) == images and len(list_boxes(dataset)) == boxes
        assert [line.partition('dropped: ')[2] for line in log] == (
            [f'1 of zero or negative size ({culprit})'] if culprit else []
        )
