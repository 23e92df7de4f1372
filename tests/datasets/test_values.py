"""Values of odd types in annotation files: read as meant, or one bounded message.

Dataset and metric read a file by one function; these tests hold both to it, the metric
with pycocotools and with faster_coco_eval.
"""

import json
import math

from mmnextvit.datasets import values
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from pycocotools.mask import encode

from tests.helpers.bad_data import list_boxes, list_infos

LONG = 'long' * 100_000
DEEP = json.loads('[' * 200 + ']' * 200)
MAX_MESSAGE = 3000


def evaluate_truth(dataset, ann_file, **kwargs):
    """mAP of a dataset's own boxes as detections."""
    metric = METRICS.build(dict(type='VerifiedCocoMetric', ann_file=ann_file, **kwargs))
    metric.dataset_meta = dataset.metainfo
    for info in list_infos(dataset):
        boxes = info['instances']
        pred = dict(
            bboxes=torch.tensor([box['bbox'] for box in boxes]).reshape(-1, 4).float(),
            labels=torch.tensor([box['bbox_label'] for box in boxes], dtype=torch.long),
            scores=torch.ones(len(boxes)),
        )
        shape = (info['height'], info['width'])
        sample = dict(img_id=info['img_id'], ori_shape=shape, pred_instances=pred)
        metric.process({}, [sample])
    return metric.evaluate(len(dataset))['coco/bbox_mAP']


def change(coco, part, **changed):
    coco.content[part][3].update(changed)
    if part == 'images' and 'id' in changed:
        coco.content['annotations'][3]['image_id'] = changed['id']


READ = [
    ('annotations', dict(bbox=['4', '4.0', ' 20', '2e1'])),
    ('annotations', dict(bbox='4, 4, 20, 20')),
    ('annotations', dict(bbox='[4 4 20 20]')),
    ('annotations', dict(id='3')),
    ('annotations', dict(id='three')),
    ('annotations', dict(id=3.0)),
    ('annotations', dict(image_id=3.0)),
    ('annotations', dict(image_id='3')),
    ('annotations', dict(category_id=2.0)),
    ('annotations', dict(category_id='2')),
    ('annotations', dict(area='400')),
    ('annotations', dict(area=None)),
    ('annotations', dict(area=-1)),
    ('annotations', dict(area=math.nan)),
    ('annotations', dict(area=math.inf)),
    ('annotations', dict(iscrowd='0')),
    ('annotations', dict(iscrowd=False)),
    ('annotations', dict(iscrowd='false')),
    ('annotations', dict(iscrowd=None)),
    ('annotations', dict(iscrowd=0.0)),
    ('annotations', dict(ignore='0')),
    ('annotations', dict(segmentation=None)),
    ('annotations', dict(segmentation={})),
    ('annotations', dict(segmentation='polygon')),
    ('annotations', dict(segmentation=DEEP)),
    ('annotations', dict(attributes=DEEP)),
    ('images', dict(width='64', height='48.0')),
    ('images', dict(width=64.0)),
    ('images', dict(id='3')),
    ('images', dict(id='003')),
    ('images', dict(id=3.0)),
    ('images', dict(id=-7)),
    ('images', dict(id=10**30)),
    ('images', dict(date_captured=DEEP, license=None)),
]


@pytest.mark.slow
@pytest.mark.parametrize('nums', [(100, 1, 10), (100, 300, 1000)])
@pytest.mark.parametrize(('part', 'changed'), READ)
def test_what_is_plain_is_read(coco, log, part, changed, nums):
    """By the dataset and by the metric, with faster_coco_eval and pycocotools."""
    change(coco, part, **changed)
    dataset = coco.build(test_mode=True)
    assert list_boxes(dataset) == [[4, 4, 24, 24]] * 8
    boxes = [box for info in list_infos(dataset) for box in info['instances']]
    assert [box['bbox_label'] for box in boxes] == [0, 1] * 4
    assert not any(box['ignore_flag'] for box in boxes)
    file = f'{coco.root}/boxes.json'
    assert evaluate_truth(dataset, file, proposal_nums=nums) == 1
    assert not log


REFUSED = [
    ('annotations', dict(id=[3]), r'\.id: \[3\] is no id: write a .* \(id \[3\]\)'),
    ('annotations', dict(id=None), r'\.id: None is no id'),
    ('annotations', dict(id=True), r'\.id: True is no id'),
    ('annotations', dict(id=''), r"\.id: '' is no id"),
    ('annotations', dict(id=1.5), r'\.id: 1.5 is no id'),
    ('annotations', dict(id=math.nan), r'\.id: nan is no id'),
    ('annotations', dict(id=math.inf), r'\.id: inf is no id'),
    ('annotations', dict(id=DEEP), r'\.id: \[\[\[\[\.\.\.'),
    ('annotations', dict(image_id=[3]), r'\.image_id: \[3\] is no id.* \(id 3\)'),
    ('annotations', dict(image_id={}), r'\.image_id: {} is no id.* \(id 3\)'),
    ('annotations', dict(image_id=None), r'\.image_id: None is no id.* \(id 3\)'),
    ('annotations', dict(category_id=[1]), r'\.category_id: \[1\] is no .* \(id 3\)'),
    ('annotations', dict(category_id=False), r'\.category_id: False is no id'),
    ('annotations', dict(area='big'), r"\.area: 'big' is no number \(id 3\)"),
    ('annotations', dict(area=[4]), r'\.area: \[4\] is no number \(id 3\)'),
    ('annotations', dict(area=True), r'\.area: True is no number'),
    ('annotations', dict(iscrowd=2), r'\.iscrowd: 2 is neither 0 nor 1 \(id 3\)'),
    ('annotations', dict(iscrowd=[]), r'\.iscrowd: \[\] is neither 0 nor 1'),
    ('annotations', dict(iscrowd=math.nan), r'\.iscrowd: nan is neither 0 nor 1'),
    ('annotations', dict(iscrowd='maybe'), r"\.iscrowd: 'maybe' is neither"),
    ('annotations', dict(ignore='x'), r"\.ignore: 'x' is neither 0 nor 1"),
    ('annotations', dict(id=2), r'id 2 occurs 2 times in annotations'),
    ('annotations', dict(id='2'), r'id 2 occurs 2 times in annotations'),
    ('annotations', dict(id=2.0), r'id 2 occurs 2 times in annotations'),
    ('annotations', dict(area=LONG), r"\.area: 'longlong.*\.\.\..*long' is no number"),
    ('images', dict(id=[3]), r'\.id: \[3\] is no id'),
    ('images', dict(id=2), r'id 2 occurs 2 times in images'),
    ('images', dict(width='wide'), r"\.width: 'wide' is no size: .* \(id 3\)"),
    ('images', dict(width=True), r'\.width: True is no size'),
    ('images', dict(width=[64]), r'\.width: \[64\] is no size'),
    ('images', dict(width=64.5), r'\.width: 64.5 is no size'),
    ('images', dict(height=0), r'\.height: 0 is no size'),
    ('images', dict(height=-48), r'\.height: -48 is no size'),
    ('images', dict(height=math.nan), r'\.height: nan is no size'),
    ('images', dict(height=math.inf), r'\.height: inf is no size'),
    ('images', dict(height=10**400), r'\.height: 10*\.\.\.0* is no size'),
    ('images', dict(file_name=None), r'\.file_name: None is no name'),
    ('images', dict(file_name=''), r"\.file_name: '' is no name"),
    ('images', dict(file_name=['a.jpg']), r"\.file_name: \['a.jpg'\] is no name"),
    ('images', dict(file_name='a\0.jpg'), r"\.file_name: 'a\\x00.jpg' is a name that"),
    ('images', dict(file_name='\ud800'), r"\.file_name: '\\ud800' is a name that no"),
    ('categories', dict(id={}), r'\.id: {} is no id'),
    ('categories', dict(id=2), r'id 2 occurs 2 times in categories'),
    ('categories', dict(id='2'), r'id 2 occurs 2 times in categories'),
    ('categories', dict(name=None), r'\.name: None is no name.* \(id 9\)'),
    ('categories', dict(name=False), r'\.name: False is no name'),
    ('categories', dict(name=['cat']), r"\.name: \['cat'\] is no name"),
    ('categories', dict(name={'en': 'cat'}), r"\.name: {'en': 'cat'} is no name"),
]


@pytest.mark.parametrize(('part', 'changed', 'message'), REFUSED)
def test_what_is_not_plain_is_refused_by_dataset_and_metric(
    coco, part, changed, message
):
    """In one short message, with file, key and id."""
    coco.content['categories'] += [dict(id=8, name='a'), dict(id=9, name='b')]
    change(coco, part, **changed)
    place = '' if 'occurs' in message else rf'{part}\[3\]'
    with pytest.raises(UserError, match=rf'boxes.json: {place}{message}') as error:
        coco.build()
    assert len(str(error.value)) < 500
    with pytest.raises(UserError) as of_metric:
        METRICS.build(
            dict(type='VerifiedCocoMetric', ann_file=f'{coco.root}/boxes.json')
        )
    assert str(of_metric.value) == str(error.value)


@pytest.mark.parametrize(
    ('part', 'value', 'message'),
    [
        ('images', None, 'images: the file is not COCO .*: None is no list'),
        ('images', {'0': {}}, "images: the file is not COCO .*: {'0': {}} is no list"),
        ('annotations', None, 'annotations: .*: None is no list'),
        ('annotations', {}, 'annotations: .*: {} is no list'),
        ('annotations', LONG, "annotations: .*'longlong.* is no list"),
        ('categories', None, 'categories: .*: None is no list'),
        ('categories', ['cat', 'dog'], r"categories\[0\]: .* no keys, it is 'cat'"),
        ('annotations', [None], r'annotations\[0\]: the entry has no keys, it is None'),
        ('annotations', [[]], r'annotations\[0\]: the entry has no keys, it is \[\]'),
        ('annotations', [{}], '.*: the entry lacks id, image_id, category_id'),
        ('annotations', [{'id': LONG}], r".* lacks image_id, .*\(id 'long.*long'\)"),
        ('images', [{'id': 5}], r'images\[0\]: the entry lacks .*height \(id 5\)'),
    ],
)
def test_lists_that_are_none(coco, part, value, message):
    coco.content[part] = value
    with pytest.raises(UserError, match=f'boxes.json: {message}') as error:
        coco.build()
    assert len(str(error.value)) < 600


@pytest.mark.parametrize('text', ['[]', '3', 'null', f'"{LONG}"', '[[[1]]]', 'true'])
def test_a_top_level_that_is_no_object(coco, text):
    with pytest.raises(UserError, match='boxes.json: .* not COCO .*it has <class') as e:
        coco.build(text=text)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    'text', ['[' * 10**6, '{"images":' * 10**5, '[' + '9' * 10**6, '{"a": \x1b[0m']
)
def test_hostile_json_ends_in_one_message(coco, text):
    with pytest.raises(UserError, match='boxes.json: the file is n') as error:
        coco.build(text=text)
    assert len(str(error.value)) < 500 and '\x1b' not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_marks_of_byte_order_are_read(coco, encoding):
    coco.build()
    path = coco.root / 'boxes.json'
    path.write_bytes(json.dumps(coco.content).encode(encoding))
    dataset = coco.build(ann_file='again.json', lazy_init=True)
    path.rename(coco.root / 'again.json')
    assert len(list_boxes(dataset)) == 8
    dataset.test_mode = True
    assert evaluate_truth(dataset, f'{coco.root}/again.json') == 1


def test_names_that_are_numbers(coco):
    coco.content['categories'] = [dict(id=1, name=7), dict(id=2, name=1.5)]
    dataset = coco.build(classes=('7', '1.5'), test_mode=True)
    assert evaluate_truth(dataset, f'{coco.root}/boxes.json') == 1


def test_boxes_of_odd_types_are_counted_and_dropped(coco, log):
    odd = [
        '1234',
        'box',
        {'4': 0, '5': 0, '8': 0, '9': 0},
        [True, True, 9, 9],
        [4, 4, 20, None],
        [[4], 4, 20, 20],
        DEEP,
        LONG,
    ]
    coco.add_boxes(*odd)
    dataset = coco.build(test_mode=True)
    assert list_boxes(dataset) == [[4, 4, 24, 24]] * 8
    assert evaluate_truth(dataset, f'{coco.root}/boxes.json') == 1
    (line,) = log
    assert '8 that are not four numbers' in line and len(line) < 500
    coco.content['annotations'][-1].update(bbox=[5, 5, 10**400, '1e999'], image_id=3)
    assert '1 NaN or infinite (3.jpg)' in (coco.build(), log[-1])[1]


def test_annotations_of_images_may_be_absent_for_prediction(coco):
    for value in ({}, dict(annotations=None)):
        del coco.content['annotations']
        coco.content.update(value)
        assert len(coco.build(test_mode=True)) == 8
        coco.content['annotations'] = None


def test_no_message_grows_with_a_file(coco, log):
    """Names, ids and lists of a file, each as long as it likes."""
    coco.content['categories'] += [
        dict(id=i, name=f'{LONG}{i}') for i in range(3, 9)
    ] + [dict(id=i, name=f'category {i}') for i in range(9, 5000)]
    coco.content['annotations'][0]['category_id'] = 3
    for i in range(1, 8):
        coco.content['annotations'][i]['image_id'] = f'{LONG}{i}'
    coco.content['annotations'][7]['image_id'] = '\x1b[31m'
    with pytest.raises(UserError, match='no usable box') as nothing:
        coco.build()
    with pytest.raises(UserError, match="no category 'cow'") as lacks:
        coco.build(classes=('cat', 'dog', 'cow'))
    with pytest.raises(UserError, match='another order') as order:
        coco.build(classes=('dog', 'cat'))
    for image in coco.content['images'][:7]:
        image['file_name'] = f'{LONG}.jpg'
    with pytest.raises(FileNotFoundError, match='1 of the 8 images') as missing:
        coco.build(test_mode=True)
    messages = [*log, *(str(e.value) for e in (nothing, lacks, order, missing))]
    assert len(messages) >= 6
    assert max(map(len, messages)) < 3 * MAX_MESSAGE
    assert not any('\x1b' in message for message in messages)


def test_a_file_of_annotations_in_the_place_of_names(coco, log):
    """MMEngine reads a file that ``classes`` names, and takes each line for a name."""
    coco.content['info'] = LONG
    coco.build()
    with pytest.raises(UserError, match='no category .*{"images": ') as error:
        coco.build(classes=str(coco.root / 'boxes.json'))
    assert len(str(error.value)) < 2 * MAX_MESSAGE


@pytest.mark.parametrize(
    ('value', 'wanted'),
    [
        ([[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4, 5, 6]]),
        ([['1', '2', 3, 4, 5, 6.5]], [[1, 2, 3, 4, 5, 6.5]]),
        ([1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]]),
        ([[1, 2], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, 6]]),
        (dict(size=['2', 3.0], counts=[1, 5]), dict(size=[2, 3], counts=[1, 5])),
        (dict(size=[2, 3], counts='06'), dict(size=[2, 3], counts='06')),
        (dict(size=[2, 3], counts='24'), dict(size=[2, 3], counts='24')),
        (dict(size=[2, 3], counts='04'), None),  # four pixels of six
        (dict(size=[40, 100], counts='~' * 50), None),  # pycocotools never ends
        (dict(size=[2, 3], counts='05o'), None),  # the last number goes on
        (dict(size=[2, 3], counts='8N'), None),  # 8 and -2
        (dict(size=[2, 3], counts='6' + 'P' * 1000 + '0'), None),
        (dict(size=[2, 3], counts='6\xe9'), None),
        (dict(size=[2, 3], counts='6 '), None),
        (dict(size=[2, 3], counts=''), None),
        (dict(size=[0, 3], counts='0'), None),
        (dict(size=[2, 3], counts=[]), None),
        (dict(size=[2, 3], counts=[1, 50]), None),
        (dict(size=[2, 3], counts=[-1, 7]), None),
        (dict(size=[2, 3], counts=[6, -3, 3]), None),
        (dict(size='23', counts=[1, 5]), None),
        (dict(size=[2, 3], counts=None), None),
        ([[1, 2, 3, 4, 5, math.nan]], None),
        ([[1, 2, 3, 4, 5, None]], None),
        ([1, 2, 3, 4, 5, [6]], None),
        (['123456'], None),
        ('123456', None),
        ([[]], None),
        ([], None),
    ],
)
def test_masks(value, wanted):
    assert values.read_mask(value) == wanted


def test_the_texts_of_pycocotools_are_read():
    """Masks of every density, with runs of one pixel and of a million."""
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (2, 3), (48, 64), (1, 700), (1024, 1024)]
    for height, width in shapes:
        for share in (0, 1e-5, 0.01, 0.5, 0.99, 1):
            mask = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
            code = encode(mask)
            text = code['counts'].decode()
            flat = mask.ravel(order='F')
            changes = np.flatnonzero(np.diff(flat, prepend=0))
            wanted = np.diff(changes, prepend=0, append=flat.size).tolist()
            assert values.decode_counts(text) == wanted
            value = dict(size=[height, width], counts=text)
            assert values.read_mask(value) == value


@pytest.mark.slow
@pytest.mark.parametrize('counts', ['~' * 50, 'oooo', '0' * 50, [10**9] * 3])
def test_a_damaged_code_is_named_by_the_metric(coco, counts):
    """Compared with a mask in pycocotools, the first would never come to an end."""
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = [[4, 4, 24, 4, 24, 24, 4, 24]]
    code = dict(size=[48, 64], counts=counts)
    coco.content['annotations'][3]['segmentation'] = code
    dataset = coco.build(test_mode=True)
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', ann_file=dataset.ann_file, metric='segm')
    )
    metric.dataset_meta = dataset.metainfo
    drawn = torch.ones(1, 48, 64, dtype=torch.bool)
    pred = dict(bboxes=torch.tensor([[4.0, 4, 24, 24]]), labels=torch.tensor([0]),
                scores=torch.ones(1), masks=drawn)  # fmt: skip
    for info in list_infos(dataset):
        sample = dict(img_id=info['img_id'], ori_shape=(48, 64), pred_instances=pred)
        metric.process({}, [sample])
    with pytest.raises(UserError, match='1 of 8 annotations have none .*the 4.'):
        metric.evaluate(len(dataset))
