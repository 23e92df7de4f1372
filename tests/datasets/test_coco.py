"""COCO data: every test reads the message that a user would get."""

import numpy as np
import pytest

from tests.helpers.bad_data import BAD_BOXES, list_boxes, measure_truth, write_image

# ------------------------------------------------------------------ annotation files


def test_good_data_is_that_of_mmyolo(coco, log):
    ours = coco.build()
    theirs = coco.build(type='YOLOv5CocoDataset')
    assert [ours.get_data_info(i) for i in range(8)] == [
        theirs.get_data_info(i) for i in range(8)
    ]
    np.testing.assert_array_equal(ours[3]['img'], theirs[3]['img'])
    assert ours[3]['ori_shape'] == ours[3]['img_shape'] == (48, 64)
    assert not log


def test_missing_annotation_file(coco):
    with pytest.raises(FileNotFoundError) as error:
        coco.build(ann_file='typo.json')
    message = str(error.value)
    assert str(coco.root / 'typo.json') in message
    assert f"data_root (now '{coco.root}')" in message
    assert 'train_dataloader' in message


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'boxes.json: the file is empty'),
        ('<annotation>', 'boxes.json: the file is not JSON: Expecting value: line 1'),
        ('[]', "boxes.json: the file is not COCO detection data.*<class 'list'>"),
        ('{"images": [], "info": 1}', r"not COCO.*it has \['images', 'info'\]"),
        (
            '{"images": [], "annotations": [], "categories": '
            '[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}',
            'boxes.json: the file lists no images',
        ),
    ],
)
def test_useless_annotation_file(coco, text, message):
    with pytest.raises(ValueError, match=message):
        coco.build(text=text)


def test_incomplete_entries(coco):
    del coco.content['images'][3]['width'], coco.content['images'][3]['height']
    with pytest.raises(ValueError, match=r'images\[3\]: the entry lacks width, height'):
        coco.build()


def test_sizes_that_are_null_are_the_images(coco, log):
    """In the dataset as in the metric, which then counts as with the sizes."""
    whole = list_boxes(coco.build())
    write_image(coco.paths[5], 5, (60, 30))  # width 30, so that its box goes beyond
    for i in range(8):
        sizes = [(None, None), (None, 48), (64, None)][i % 3]
        coco.content['images'][i].update(zip(('width', 'height'), sizes))
    dataset = coco.build(test_mode=True)
    infos = [dataset.get_data_info(i) for i in range(8)]
    assert [(info['width'], info['height']) for info in infos] == [
        (30, 60) if i == 5 else (64, 48) for i in range(8)
    ]
    assert all(info['size_measured'] for info in infos)
    assert list_boxes(dataset) == whole
    numbers = measure_truth(
        infos, dataset.metainfo, ann_file=str(coco.root / 'boxes.json')
    )
    assert numbers['coco/bbox_mAP'] == 1
    coco.content['annotations'][0]['bbox'] = [100, 4, 20, 20]
    coco.build()
    assert any('1 outside the image (0.jpg)' in line for line in log)


def test_entry_without_keys(coco):
    coco.content['images'][3] = 3
    with pytest.raises(ValueError, match=r'images\[3\]: the entry has no keys'):
        coco.build()


def test_repeated_ids(coco):
    coco.content['images'][3]['id'] = 2
    with pytest.raises(ValueError, match='id 2 occurs 2 times in images'):
        coco.build()


def test_no_boxes_to_train_on(coco):
    coco.content['annotations'] = []
    assert len(coco.build(test_mode=True)) == 8
    with pytest.raises(ValueError, match='boxes.json: the file holds no usable box'):
        coco.build()


def test_filter_that_leaves_nothing(coco):
    with pytest.raises(ValueError, match="'min_size': 50} leaves none of the 8"):
        coco.build(filter_cfg=dict(min_size=50))


# -------------------------------------------------------------------------- classes


def test_missing_class(coco):
    with pytest.raises(ValueError) as error:
        coco.build(classes=('cat', 'dgo'))
    message = str(error.value)
    assert "no category 'dgo'" in message
    assert "are ('cat', 'dog'), the config has ('cat', 'dgo')" in message
    assert "metainfo=dict(classes=('cat', 'dog')), num_classes=2" in message


def test_forgotten_classes(coco):
    with pytest.raises(ValueError, match="no category 'person', 'bicycle'"):
        coco.build(metainfo=None)


def test_swapped_classes(coco):
    with pytest.raises(ValueError) as error:
        coco.build(classes=('dog', 'cat'))
    assert 'another order' in str(error.value)
    assert "classes=('cat', 'dog')" in str(error.value)


def test_classes_in_the_order_of_the_file_not_of_its_ids(coco):
    coco.content['categories'].reverse()
    labels = [
        coco.build(classes=('dog', 'cat')).get_data_info(i)['instances'][0]
        for i in range(2)
    ]
    assert [box['bbox_label'] for box in labels] == [1, 0]  # a cat, a dog


def test_categories_that_are_no_classes(coco, log):
    coco.content['categories'].append(dict(id=3, name='bird'))
    assert coco.build() is not None and not log  # holds no boxes
    coco.content['annotations'][0]['category_id'] = 3
    coco.content['annotations'][1]['category_id'] = 9
    assert len(list_boxes(coco.build())) == 6
    assert log == [
        f'{coco.root}/boxes.json: boxes of categories that are no classes of the '
        'config are ignored: bird (1), category_id 9 (1)'
    ]


def test_two_categories_of_one_name(coco):
    coco.content['categories'].append(dict(id=3, name='cat'))
    with pytest.raises(ValueError, match='two categories of one name'):
        coco.build()


def test_classes_as_a_string(coco):
    with pytest.raises(ValueError, match=r"classes='cat' is one .*classes=\('cat',\)"):
        coco.build(classes='cat')


@pytest.mark.parametrize(
    ('classes', 'message'), [((), 'is empty'), (('cat', 'cat'), 'names cat twice')]
)
def test_empty_or_repeated_classes(coco, classes, message):
    with pytest.raises(ValueError, match=message):
        coco.build(classes=classes)


# ---------------------------------------------------------------------------- boxes


@pytest.mark.slow
@pytest.mark.parametrize(('bbox', 'fault'), BAD_BOXES)
def test_bad_box(coco, log, bbox, fault):
    coco.add_boxes(bbox)
    assert list_boxes(coco.build()) == [[4, 4, 24, 24]] * 8
    (line,) = log
    assert 'boxes.json: boxes dropped: 1 ' in line and fault in line
    assert '(0.jpg)' in line


def test_bad_boxes_are_counted_by_fault(coco, log):
    coco.add_boxes(*[bbox for bbox, _ in BAD_BOXES[:6]])
    coco.build()
    (line,) = log
    assert 'boxes dropped: 2 of zero or negative size (0.jpg, 1.jpg); 2 NaN' in line


@pytest.mark.slow
def test_boxes_partly_outside_stay(coco, log):
    coco.add_boxes([-5, -5, 10, 10], [60, 40, 50, 50])
    assert list_boxes(coco.build())[1] == [-5, -5, 5, 5]
    assert len(list_boxes(coco.build())) == 10 and not log


def test_boxes_without_area(coco):
    del coco.content['annotations'][0]['area'], coco.content['annotations'][1]['area']
    coco.content['annotations'][2]['area'] = 0
    assert len(list_boxes(coco.build())) == 8  # MMDetection: an error, or dropped
