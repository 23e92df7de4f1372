"""Every number that is printed, against pycocotools on odd ids, crowds and masks."""

import json
import re

from mmnextvit.evaluation.averages import explain_recalls
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from pycocotools import mask as mask_utils

from tests.helpers.bad_data import list_infos, write_image
from tests.helpers.pycocotools_reference import list_expected, without_minus_one

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 240, 320
FAST, SLOW = (100, 1, 10), (100, 300, 1000)  # faster_coco_eval; pycocotools

# Ids of the categories in the order of the file, and of the images; which of the
# categories are classes.
SCHEMES = {
    'falling': (dict(c=3, a=1, b=2), range(1, 9), 'cab'),
    'from zero': (dict(b=0, c=1, a=2), range(8), 'bca'),
    'gaps': (dict(c=900, a=7, b=18), [90, 5, 17, 1000, 3, 44, 6, 70], 'cab'),
    'negative': (dict(a=2, b=-1, c=0), [3, -5, 0, 7, -1, 2, 1, 9], 'abc'),
    'unused': (dict(x=9, c=8, y=7, a=6, z=5, b=4), range(8, 0, -1), 'cab'),
    'subset': (dict(c=3, a=1, b=2), range(8, 0, -1), 'cb'),
    'one': (dict(c=3, a=1, b=2), range(8), 'b'),
    'texts': (dict(c='gamma', a='alpha', b='beta'), 'hgfedcba', 'cab'),
}


def draw_box(rng, side):
    """x, y, w, h in whole pixels inside the image."""
    w, h = rng.integers(max(side // 2, 4), side + 1, 2)
    return [int(rng.integers(WIDTH - w)), int(rng.integers(HEIGHT - h)), int(w), int(h)]


def draw_mask(box):
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def encode(mask):
    code = mask_utils.encode(np.asfortranarray(mask))
    return dict(size=list(map(int, code['size'])), counts=code['counts'].decode())


def write_data(root, name, seed=0):
    """A data set of a scheme: small, medium and large boxes, crowds and masks."""
    categories, image_ids, classes = SCHEMES[name]
    rng = np.random.default_rng(seed)
    ids = list(categories.values())
    used = [number for key, number in categories.items() if key not in 'yz']
    images = [
        dict(id=number, file_name=f'{i}.png', width=WIDTH, height=HEIGHT)
        for i, number in enumerate(image_ids)
    ]
    annotations = []
    for image in images:
        for side in rng.choice([24, 60, 160], rng.integers(2, 6)):
            box = draw_box(rng, side)
            x, y, w, h = box
            crowd = int(rng.random() < 0.15)
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=used[rng.integers(len(used))],
                    bbox=box,
                    area=w * h,
                    iscrowd=crowd,
                    segmentation=encode(draw_mask(box)) if crowd else polygon,
                )
            )
    rng.shuffle(annotations)
    (root / 'images').mkdir(exist_ok=True)
    for i, image in enumerate(images):
        write_image(root / 'images' / image['file_name'], i, (HEIGHT, WIDTH))
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=number, name=key) for key, number in categories.items()],
    )
    (root / 'boxes.json').write_text(json.dumps(content))
    assert len(ids) == len(categories)
    return content, {key: categories[key] for key in classes}


def draw_detections(content, classes, seed=1):
    """COCO's result entries near the truth, with ties of scores and wrong classes."""
    rng = np.random.default_rng(seed)
    ids = list(classes.values())
    entries = []
    for truth in content['annotations']:
        for _ in range(3):
            x, y, w, h = truth['bbox']
            x, y = (int(max(v + rng.normal(0, 2), 0)) for v in (x, y))
            label = truth['category_id']
            if label not in ids or rng.random() < 0.2:
                label = ids[rng.integers(len(ids))]
            entries.append(
                dict(
                    image_id=truth['image_id'],
                    category_id=label,
                    bbox=[x, y, w, h],
                    segmentation=encode(draw_mask([x, y, int(w), int(h)])),
                    score=round(rng.random(), 1),
                )
            )
    return entries


def make_sample(info, entries, classes):
    """What a detector gives for an image, as the metric gets it."""
    mine = [entry for entry in entries if entry['image_id'] == info['img_id']]
    boxes = np.array([entry['bbox'] for entry in mine], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = {number: label for label, number in enumerate(classes.values())}
    return dict(
        img_id=info['img_id'],
        ori_shape=(info['height'], info['width']),
        instances=info['instances'],
        pred_instances=dict(
            bboxes=torch.from_numpy(boxes),
            labels=torch.tensor(
                [labels[entry['category_id']] for entry in mine], dtype=torch.long
            ),
            scores=torch.tensor([e['score'] for e in mine], dtype=torch.float64),
            masks=[entry['segmentation'] for entry in mine],
        ),
    )


def evaluate(dataset, entries, classes, **kwargs):
    """What our metric returns for a dataset and detections."""
    metric = METRICS.build(dict(type='VerifiedCocoMetric', classwise=True, **kwargs))
    metric.dataset_meta = dataset.metainfo
    infos = list_infos(dataset)
    metric.process({}, [make_sample(info, entries, classes) for info in infos])
    return without_minus_one(metric.evaluate(len(infos)))


@pytest.fixture
def printed(monkeypatch):
    """All that MMEngine's logger gets."""
    lines = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(),
        'handle',
        lambda record: lines.append(record.getMessage()),
    )
    return lines


def build(coco, classes, **kwargs):
    text = (coco.root / 'boxes.json').read_text()
    return coco.build(tuple(classes), text, test_mode=True, **kwargs)


# ------------------------------------------------------------------------- of a file


def test_only_the_boxes_of_one_class_are_found(coco, printed):
    """The precision is that of the class that was found, in the log as well."""
    content, classes = write_data(coco.root, 'falling')
    found = [
        dict(a, score=1.0)
        for a in content['annotations']
        if a['category_id'] == classes['a'] and not a['iscrowd']
    ]
    for entry in found:
        entry['segmentation'] = encode(draw_mask(entry['bbox']))
    numbers = evaluate(
        build(coco, classes),
        found,
        classes,
        ann_file=f'{coco.root}/boxes.json',
        proposal_nums=FAST,
    )
    assert [numbers[f'coco/{name}_precision'] for name in 'abc'] == [1, 0, 0]
    (table,) = [line for line in printed if 'category' in line]
    assert [re.search(rf'\| {n} +\| ([\d.]+)', table)[1] for n in 'abc'] == [
        '1.0', '0.0', '0.0',
    ]  # fmt: skip


@pytest.mark.parametrize('nums', [FAST, SLOW], ids=['faster', 'pycocotools'])
@pytest.mark.parametrize('name', SCHEMES)
def test_numbers_of_boxes_and_proposals(coco, name, nums):
    content, classes = write_data(coco.root, name)
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    metrics = ['bbox', 'proposal']
    numbers = evaluate(
        build(coco, classes),
        entries,
        classes,
        ann_file=str(file),
        metric=metrics,
        proposal_nums=nums,
    )
    wanted = list_expected(file, entries, classes, metrics, sorted(nums))
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert 0.1 < numbers['coco/bbox_mAP'] < 0.9
    precisions = [numbers[f'coco/{key}_precision'] for key in classes]
    assert len(set(precisions)) == len(classes)  # none could be mistaken for another


@pytest.mark.parametrize('nums', [FAST, SLOW], ids=['faster', 'pycocotools'])
@pytest.mark.parametrize('name', ['falling', 'from zero', 'subset', 'texts'])
def test_numbers_of_masks(coco, name, nums):
    content, classes = write_data(coco.root, name)
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    numbers = evaluate(
        build(coco, classes),
        entries,
        classes,
        ann_file=str(file),
        metric='segm',
        proposal_nums=nums,
    )
    wanted = list_expected(file, entries, classes, ('segm',), sorted(nums))
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert 0.1 < numbers['coco/segm_mAP'] < 0.9


def test_the_table_has_each_class_s_numbers(coco, printed):
    """Of every size and threshold, whose means are the numbers of all classes."""
    content, classes = write_data(coco.root, 'gaps')
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    dataset = build(coco, classes)
    evaluate(dataset, entries, classes, ann_file=str(file), proposal_nums=FAST)
    (table,) = [line for line in printed if 'category' in line]
    for key, number in classes.items():
        row = re.search(rf'\| {key} +\|(.*)\|', table)[1].split('|')
        wanted = list_expected(file, entries, {key: number})
        values = [wanted[f'coco/bbox_{item}'] for item in (
            'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'
        )]  # fmt: skip
        assert [float(cell) for cell in row] == pytest.approx(values, nan_ok=True)
    wanted = list_expected(file, entries, classes)
    (line,) = [line for line in printed if 'copypaste' in line]
    assert [float(v) for v in line.split()[1:]] == pytest.approx(
        [v for name, v in wanted.items() if '/bbox_' in name]
    )


def test_annotations_may_lack_what_pycocotools_needs(coco):
    """The numbers are those of the file that has it."""
    content, classes = write_data(coco.root, 'falling')
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    wanted = list_expected(file, entries, classes)
    for annotation in content['annotations']:
        annotation.update(bbox=list(map(str, annotation['bbox'])), area=None)
        annotation['image_id'] = str(annotation['image_id'])
        annotation['category_id'] = float(annotation['category_id'])
        if not annotation['iscrowd']:
            del annotation['iscrowd']
    content['images'] = [dict(i, id=float(i['id'])) for i in content['images']]
    file.write_text(json.dumps(content))
    numbers = evaluate(
        build(coco, classes), entries, classes, ann_file=str(file), proposal_nums=FAST
    )
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_thresholds_of_a_config_are_a_list(coco, printed):
    """pycocotools finds no 0.5 in a list, and MMDetection takes the sixth for 0.75."""
    content, classes = write_data(coco.root, 'falling')
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    wanted = list_expected(file, entries, classes)
    for thresholds in ([0.75, 0.5], 0.5):
        numbers = evaluate(
            build(coco, classes),
            entries,
            classes,
            ann_file=str(file),
            proposal_nums=FAST,
            iou_thrs=thresholds,
        )
        assert numbers['coco/bbox_mAP_50'] == wanted['coco/bbox_mAP_50'] > 0
    first, second = (line for line in printed if 'category' in line)
    for key, number in classes.items():
        wanted = list_expected(file, entries, {key: number})
        row = re.search(rf'\| {key} +\|(.*)\|', first)[1].split('|')
        assert float(row[1]) == wanted['coco/bbox_mAP_50']
        assert float(row[2]) == wanted['coco/bbox_mAP_75']
        row = re.search(rf'\| {key} +\|(.*)\|', second)[1].split('|')
        assert float(row[0]) == float(row[1]) == wanted['coco/bbox_mAP_50']
        assert row[2].strip() == 'nan'  # there is no such threshold


def test_counts_that_pycocotools_has_no_number_for():
    for metric, nums in (('bbox', (1, 10, 50)), ('proposal', (10, 100))):
        with pytest.raises(UserError, match=r'proposal_nums of the evaluator are'):
            METRICS.build(
                dict(type='VerifiedCocoMetric', metric=metric, proposal_nums=nums)
            )
    METRICS.build(
        dict(type='VerifiedCocoMetric', metric='proposal', proposal_nums=(1, 10, 50))
    )
    assert explain_recalls((100, 300, 1000)) == ''
    assert 'AR@100 is AR@1, AR@300 is AR@10' in explain_recalls((1, 10, 100))


@pytest.mark.parametrize('names', ['acb', 'ca', 'cabd'])
def test_a_metric_of_other_classes_is_refused(coco, names):
    """A dataset in another format has its classes from elsewhere."""
    write_data(coco.root, 'falling')
    file = f'{coco.root}/boxes.json'
    metric = METRICS.build(dict(type='VerifiedCocoMetric', ann_file=file))
    if names == 'ca':  # some categories need be no classes
        metric.dataset_meta = dict(classes=tuple(names))
        return
    with pytest.raises(UserError, match='boxes.json: the (classes stand|file has)'):
        metric.dataset_meta = dict(classes=tuple(names))


def test_sorted_categories_are_labels_in_that_order(coco):
    """As MMDetection's dataset of Objects365 has them."""
    content, classes = write_data(coco.root, 'falling')
    classes = dict(sorted(classes.items()))
    entries = draw_detections(content, classes)
    file = coco.root / 'boxes.json'
    dataset = build(coco, 'cab')
    dataset._metainfo['classes'] = tuple(classes)
    numbers = evaluate(
        dataset,
        entries,
        classes,
        ann_file=str(file),
        proposal_nums=FAST,
        sort_categories=True,
    )
    wanted = list_expected(file, entries, classes)
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_images_that_were_not_evaluated_are_told(coco, log):
    content, classes = write_data(coco.root, 'falling')
    dataset = build(coco, classes, indices=5)
    file = f'{coco.root}/boxes.json'
    evaluate(dataset, draw_detections(content, classes), classes, ann_file=file)
    assert log == [
        f'3 of the 8 images of {file} were not evaluated: their boxes count as missed'
    ]


def test_masks_that_are_missing_are_told(coco):
    content, classes = write_data(coco.root, 'falling')
    entries = draw_detections(content, classes)
    content['annotations'][2]['segmentation'] = []
    del content['annotations'][5]['segmentation']
    file = coco.root / 'boxes.json'
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"'segm' .*2 of \d+ annotations.*the 3., 6."):
        evaluate(build(coco, classes), entries, classes, ann_file=str(file),
                 metric='segm')  # fmt: skip


# ---------------------------------------------------------------------- of the samples


@pytest.mark.parametrize('nums', [FAST, SLOW], ids=['faster', 'pycocotools'])
@pytest.mark.parametrize('backwards', [False, True])
def test_numbers_of_yolo_data(yolo, nums, backwards):
    """Also where the samples stand in another order, as sorted shapes put them."""
    images = [
        dict(id=i, width=w, height=h, file_name=p.name)
        for i, (p, (w, h)) in enumerate(zip(yolo.images, yolo.sizes))
    ]
    annotations = []
    for image, boxes in zip(images, yolo.boxes):
        w, h = image['width'], image['height']
        for label, x, y, bw, bh in boxes:
            box = [(x - bw / 2) * w, (y - bh / 2) * h, bw * w, bh * h]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=label,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
    classes = dict(cat=0, dog=1)
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for name, i in classes.items()],
    )
    file = yolo.root / 'boxes.json'
    file.write_text(json.dumps(content))
    entries = draw_detections(content, classes)
    dataset = yolo.build(
        test_mode=True, indices=[*range(7, -1, -1)] if backwards else 8
    )
    assert [info['img_id'] for info in list_infos(dataset)][0] == 7 * backwards
    numbers = evaluate(
        dataset, entries, classes, metric=['bbox', 'proposal'], proposal_nums=nums
    )
    wanted = list_expected(file, entries, classes, ('bbox', 'proposal'), sorted(nums))
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert 0.1 < numbers['coco/bbox_mAP'] < 0.9


@pytest.mark.parametrize('names', ['cat dog', 'dog cat', 'dog'])
def test_numbers_of_voc_data(voc, names):
    """In any order of the classes, and of some of them."""
    voc.write(3, name='dog', difficult=1)
    classes = {name: number for number, name in enumerate(names.split(), start=5)}
    annotations = [
        dict(
            id=i + 1,
            image_id=str(i),
            category_id=classes[name],
            bbox=[4, 4, 20, 20],
            area=400,
            iscrowd=int(i == 3),
        )
        for i, name in enumerate(['cat', 'dog'] * 2)
        if name in classes
    ]
    content = dict(
        images=[dict(id=str(i), width=64, height=48) for i in range(4)],
        annotations=annotations,
        categories=[dict(id=number, name=name) for name, number in classes.items()],
    )
    file = voc.root / 'boxes.json'
    file.write_text(json.dumps(content))
    rng = np.random.default_rng(3)
    entries = draw_detections(content, classes) + [
        dict(
            image_id=str(i),
            category_id=rng.choice(list(classes.values())).item(),
            bbox=[4, 4, 20, 20 - i],
            segmentation=[],
            score=0.5,
        )
        for i in range(4)
    ]
    dataset = voc.build(tuple(classes), test_mode=True)
    numbers = evaluate(dataset, entries, classes, proposal_nums=FAST)
    wanted = list_expected(file, entries, classes)
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert numbers['coco/bbox_mAP'] > 0


def test_images_of_several_datasets_with_one_id(yolo):
    """Their truths stay apart, as MMDetection's would not."""
    infos = list_infos(yolo.build(test_mode=True))
    samples = []
    for info in infos[:6]:
        sample = make_sample(info, [], {})
        box = [i['bbox'] for i in info['instances']]
        sample['pred_instances'].update(
            bboxes=torch.tensor(box),
            labels=torch.tensor([i['bbox_label'] for i in info['instances']]),
            scores=torch.ones(len(box)),
        )
        del sample['pred_instances']['masks']
        samples.append(dict(sample, img_id=info['img_id'] % 3))
    metric = METRICS.build(dict(type='VerifiedCocoMetric'))
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    metric.process({}, samples)
    assert metric.evaluate(6)['coco/bbox_mAP'] == 1


# ------------------------------------------------------------- recalls by MMDetection


def test_fast_recalls_compare_an_image_with_its_own_boxes(coco):
    """In any order of the images, and with any number of boxes in them."""
    content, classes = write_data(coco.root, 'gaps')
    for annotation in content['annotations']:
        annotation['iscrowd'] = 0
    (coco.root / 'boxes.json').write_text(json.dumps(content))
    found = [
        dict(a, score=1.0, segmentation=[]) for a in content['annotations'][::2]
    ]  # every second box exactly, and nothing else
    for order in (range(8), [5, 3, 7, 0, 2, 1, 6, 4]):
        numbers = evaluate(
            build(coco, classes, indices=list(order)),
            found,
            classes,
            ann_file=f'{coco.root}/boxes.json',
            metric='proposal_fast',
            proposal_nums=(100, 1, 10),
        )
        share = len(found) / len(content['annotations'])
        assert numbers['coco/AR@100'] == numbers['coco/AR@10']
        assert share <= numbers['coco/AR@100'] < share + 0.1
        assert numbers['coco/AR@1'] <= 8 / len(content['annotations'])
