"""Pascal VOC data: every test reads the message that a user would get."""

from pathlib import Path

import mmnextvit  # noqa: F401  (registers what the tests build)

import pytest
from mmengine.registry import init_default_scope
from mmyolo.registry import DATASETS

from tests.helpers.bad_data import list_boxes

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
