"""Bad data: every test reads the message that a user would get."""

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.datasets import checks as datasets
from mmnextvit.datasets.checks import BrokenImageError, DataReportHook, read_image

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, init_default_scope
from mmyolo.registry import DATASETS, MODELS
from torch.utils.data import DataLoader

CLASSES = ('cat', 'dog')
LOAD = [dict(type='LoadImageFromFile')]
BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd'


@pytest.fixture
def log(monkeypatch):
    """The warnings that MMEngine's logger gets."""
    lines = []

    def keep(record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())

    monkeypatch.setattr(MMLogger.get_current_instance(), 'handle', keep)
    return lines


def write_image(path: Path, number: int = 0, size: tuple = (48, 64)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    content = cv2.imencode(path.suffix, cv2.GaussianBlur(pixels, (5, 5), 0))[1]
    path.write_bytes(content.tobytes())
    return content.tobytes()


class Coco:
    """A data set of eight images with a box each, to be spoilt and built."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'images').mkdir()
        self.paths = [root / 'images' / f'{i}.jpg' for i in range(8)]
        for number, path in enumerate(self.paths):
            write_image(path, number)
        self.content = dict(
            images=[
                dict(id=i, file_name=path.name, width=64, height=48)
                for i, path in enumerate(self.paths)
            ],
            annotations=[self.box(i, 1 + i % 2, [4, 4, 20, 20]) for i in range(8)],
            categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        )

    @staticmethod
    def box(image: int, category: int, bbox: list, number: int | None = None) -> dict:
        number = image if number is None else number
        return dict(
            id=number,
            image_id=image,
            category_id=category,
            bbox=bbox,
            area=400,
            iscrowd=0,
        )

    def add_boxes(self, *boxes: list) -> None:
        for number, bbox in enumerate(boxes):
            self.content['annotations'].append(
                self.box(number, 1, bbox, number=100 + number)
            )

    def truncate(self, *indices: int) -> None:
        for i in indices:
            content = self.paths[i].read_bytes()
            self.paths[i].write_bytes(content[: len(content) // 2])

    def build(self, classes=CLASSES, text: str | None = None, **kwargs):
        if text is None:
            text = json.dumps(self.content)
        (self.root / 'boxes.json').write_text(text)
        cfg = dict(
            type='VerifiedCocoDataset',
            data_root=str(self.root),
            ann_file='boxes.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=classes),
            pipeline=LOAD,
        )
        return DATASETS.build({**cfg, **kwargs})


@pytest.fixture
def coco(tmp_path):
    init_default_scope('mmyolo')
    return Coco(tmp_path)


def boxes_of(dataset) -> list:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [box['bbox'] for info in infos for box in info['instances']]


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
        ('', 'boxes.json is empty'),
        ('<annotation>', 'boxes.json is not JSON: Expecting value: line 1'),
        ('[]', "boxes.json is not COCO detection data.*<class 'list'>"),
        ('{"images": [], "info": 1}', r"not COCO.*it has \['images', 'info'\]"),
        (
            '{"images": [], "annotations": [], "categories": '
            '[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}',
            'boxes.json lists no images',
        ),
    ],
)
def test_useless_annotation_file(coco, text, message):
    with pytest.raises(ValueError, match=message):
        coco.build(text=text)


def test_incomplete_entries(coco):
    del coco.content['images'][3]['width'], coco.content['images'][3]['height']
    with pytest.raises(ValueError, match=r'images\[3\] lacks width, height'):
        coco.build()


def test_repeated_ids(coco):
    coco.content['images'][3]['id'] = 2
    with pytest.raises(ValueError, match='id 2 occurs 2 times in images'):
        coco.build()


def test_no_boxes_to_train_on(coco):
    coco.content['annotations'] = []
    assert len(coco.build(test_mode=True)) == 8
    with pytest.raises(ValueError, match='boxes.json holds no usable box'):
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
    assert len(boxes_of(coco.build())) == 6
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


def fake_runner(model, dataset) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_loop=loader,
        logger=MMLogger.get_current_instance(),
    )


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_num_classes_of_the_head(coco, stage):
    model = torch.nn.Module()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.head_module = torch.nn.Module()
    model.bbox_head.num_classes = model.bbox_head.head_module.num_classes = 80
    runner = fake_runner(model, coco.build())
    with pytest.raises(ValueError) as error:
        getattr(DataReportHook(), f'before_{stage}')(runner)
    message = str(error.value)
    assert f'num_classes=80, but the {stage} data has 2 classes (cat, dog)' in message
    assert 'model.bbox_head.head_module.num_classes=2' in message
    assert f'{stage}_dataloader.dataset.metainfo' in message
    model.bbox_head.num_classes = model.bbox_head.head_module.num_classes = 2
    getattr(DataReportHook(), f'before_{stage}')(runner)


def test_num_classes_of_our_detector(coco, load_config, tiny):
    cfg = load_config('yolov5_nextvit_s').model
    cfg.backbone.arch = tiny
    runner = fake_runner(MODELS.build(cfg), coco.build())
    with pytest.raises(ValueError, match='set model.bbox_head.head_module.num_c'):
        DataReportHook().before_train(runner)


# ---------------------------------------------------------------------------- boxes

NAN = float('nan')
BAD_BOXES = [
    ([5, 5, 0, 8], 'of zero or negative size'),
    ([5, 5, 8, -3], 'of zero or negative size'),
    ([NAN, 5, 8, 8], 'NaN or infinite'),
    ([5, 5, float('inf'), 8], 'NaN or infinite'),
    ([64, 5, 8, 8], 'outside the image'),
    ([5, -9, 8, 8], 'outside the image'),
    ([5, 5, 8, 0.5], 'under 1 pixel'),
    ([5, 5, 8], 'not four numbers'),
    (None, 'not four numbers'),
]


@pytest.mark.parametrize(('bbox', 'fault'), BAD_BOXES)
def test_bad_box(coco, log, bbox, fault):
    coco.add_boxes(bbox)
    assert boxes_of(coco.build()) == [[4, 4, 24, 24]] * 8
    (line,) = log
    assert 'boxes.json: boxes dropped: 1 ' in line and fault in line
    assert '(0.jpg)' in line


def test_bad_boxes_are_counted_by_kind(coco, log):
    coco.add_boxes(*[bbox for bbox, _ in BAD_BOXES[:6]])
    coco.build()
    (line,) = log
    assert 'boxes dropped: 2 of zero or negative size (0.jpg, 1.jpg); 2 NaN' in line


def test_boxes_partly_outside_stay(coco, log):
    coco.add_boxes([-5, -5, 10, 10], [60, 40, 50, 50])
    assert boxes_of(coco.build())[1] == [-5, -5, 5, 5]
    assert len(boxes_of(coco.build())) == 10 and not log


def test_boxes_without_area(coco):
    del coco.content['annotations'][0]['area'], coco.content['annotations'][1]['area']
    coco.content['annotations'][2]['area'] = 0
    assert len(boxes_of(coco.build())) == 8  # MMDetection: an error, or dropped


def test_metric_leaves_out_what_nothing_can_match(coco):
    """The same mAP of perfect detections with bad boxes as without."""
    del (
        coco.content['annotations'][0]['area'],
        coco.content['annotations'][0]['iscrowd'],
    )
    coco.add_boxes(*[bbox for bbox, _ in BAD_BOXES[:6]])
    dataset = coco.build(test_mode=True)
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', ann_file=f'{coco.root}/boxes.json')
    )
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        pred = dict(
            bboxes=torch.tensor([box['bbox'] for box in info['instances']]).float(),
            labels=torch.tensor([box['bbox_label'] for box in info['instances']]),
            scores=torch.ones(len(info['instances'])),
        )
        sample = dict(img_id=info['img_id'], ori_shape=(48, 64), pred_instances=pred)
        metric.process({}, [sample])
    assert metric.evaluate(len(dataset))['coco/bbox_mAP'] == 1


@pytest.mark.parametrize('from_file', [True, False])
def test_metric_gives_the_numbers_of_mmdetections(coco, from_file, monkeypatch):
    """Of boxes, proposals, masks and classes, with crowds; also for ids of VOC."""
    rng = np.random.default_rng(0)
    for number, annotation in enumerate(coco.content['annotations'], start=1):
        annotation['id'] = number  # CocoMetric takes 0 for 'no match'
        annotation['segmentation'] = [[4, 4, 24, 4, 24, 24, 4, 24]]
    coco.content['annotations'][3].update(iscrowd=1, area=900)
    dataset = coco.build(test_mode=True)
    given = dict(metric=['bbox', 'proposal'], classwise=True)
    given.update(proposal_nums=(100, 1, 10))  # of YOLO's configs
    if from_file:
        given.update(ann_file=f'{coco.root}/boxes.json', metric=['bbox', 'segm'])
    metrics = [
        METRICS.build(dict(type=kind, **given))
        for kind in ('mmdet.CocoMetric', 'VerifiedCocoMetric')
    ]
    for metric in metrics:
        metric.dataset_meta = dataset.metainfo
    for _ in range(2):
        for info in map(dataset.get_data_info, range(len(dataset))):
            boxes = np.array([box['bbox'] for box in info['instances']], float)
            boxes = np.repeat(boxes, 9, axis=0)
            boxes += rng.normal(0, 2, boxes.shape)
            masks = np.zeros((len(boxes), 48, 64), bool)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).astype(int)):
                mask[y1:y2, x1:x2] = True
            pred = dict(
                bboxes=torch.from_numpy(boxes).float(),
                labels=torch.from_numpy(rng.integers(0, 2, len(boxes))),
                scores=torch.from_numpy(rng.random(len(boxes)).round(1)),  # with ties
                masks=torch.from_numpy(masks),
            )
            if not from_file:
                del pred['masks']
            sample = dict(
                img_id=info['img_id'] if from_file else f'image_{info["img_id"]}',
                ori_shape=(48, 64),
                pred_instances=pred,
                instances=info['instances'],
            )
            for metric in metrics:
                metric.process({}, [sample])
        wanted = metrics[0].evaluate(len(dataset))
        with monkeypatch.context() as context:  # else pycocotools was asked
            context.setattr('pycocotools.cocoeval.COCOeval.evaluate', None)
            found = metrics[1].evaluate(len(dataset))
        np.testing.assert_equal(found, wanted)  # NaN of a size that no box has
        assert 0 < found['coco/bbox_mAP'] < 1


def test_metric_takes_100_boxes_for_the_map_whatever_the_recalls(coco):
    """MMDetection's proposal_nums go up to 1000."""
    dataset = coco.build(test_mode=True)
    found = []
    for kind in ('mmdet.CocoMetric', 'VerifiedCocoMetric'):
        metric = METRICS.build(dict(type=kind))
        metric.dataset_meta = dataset.metainfo
        for info in map(dataset.get_data_info, range(len(dataset))):
            # The right boxes come after a hundred wrong ones.
            right = np.array([box['bbox'] for box in info['instances']], float)
            wrong = np.repeat([[0.0, 0, 3, 3]], 100, axis=0)
            boxes = torch.from_numpy(np.concatenate([wrong, right.reshape(-1, 4)]))
            labels = [box['bbox_label'] for box in info['instances']]
            pred = dict(
                bboxes=boxes.float(),
                labels=torch.tensor([*(labels * 100)[:100], *labels], dtype=torch.long),
                scores=torch.linspace(1, 0.1, len(boxes)),
            )
            if labels:
                sample = dict(
                    img_id=info['img_id'],
                    ori_shape=(48, 64),
                    pred_instances=pred,
                    instances=info['instances'],
                )
                metric.process({}, [sample])
        found.append(metric.evaluate(len(dataset)))
    np.testing.assert_equal(*found)


def test_metric_writes_the_ids_of_the_data(coco, tmp_path):
    """Names go to pycocotools, so that the files can be used."""
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', outfile_prefix=f'{tmp_path}/found')
    )
    metric.dataset_meta = coco.build().metainfo
    box = torch.tensor([[1.0, 2, 30, 40]])
    pred = dict(bboxes=box, labels=torch.tensor([0]), scores=torch.ones(1))
    truth = [dict(bbox=[1, 2, 30, 40], bbox_label=0)]
    sample = dict(img_id='a', ori_shape=(48, 64), pred_instances=pred, instances=truth)
    metric.process({}, [sample])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1
    (found,) = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert found['image_id'] == 'a' and found['bbox'] == [1, 2, 29, 38]


def test_metric_without_its_file():
    with pytest.raises(FileNotFoundError, match='nowhere.json.*val_evaluator'):
        METRICS.build(dict(type='VerifiedCocoMetric', ann_file='nowhere.json'))


# ------------------------------------------------------------------------- images


def test_missing_images(coco):
    for i in (1, 3, 4):
        coco.paths[i].unlink()
    with pytest.raises(FileNotFoundError) as error:
        coco.build()
    message = str(error.value)
    assert '3 of the 8 images' in message and 'boxes.json names are missing' in message
    assert f'{coco.paths[1]}, {coco.paths[3]}, {coco.paths[4]}. Set data_prefix' in (
        message
    )


def test_wrong_folder_names_only_a_few(coco):
    with pytest.raises(FileNotFoundError, match='8 of the 8.*4.jpg and 3 more'):
        coco.build(data_prefix=dict(img='elsewhere'), skip_broken=True)


def test_missing_images_skipped(coco, log):
    coco.paths[1].unlink()
    assert len(coco.build(skip_broken=True)) == 7
    (line,) = log
    assert '1 of the 8 images' in line and f'{coco.paths[1]}: skipped' in line


def test_images_in_subfolders(coco):
    coco.content['images'][2]['file_name'] = 'deep/2.jpg'
    with pytest.raises(FileNotFoundError, match='1 of the 8.*images/deep/2.jpg'):
        coco.build()
    (coco.root / 'images' / 'deep').mkdir()
    write_image(coco.root / 'images' / 'deep' / '2.jpg')
    assert len(coco.build()) == 8


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    content = write_image(path)
    np.testing.assert_array_equal(read_image(str(path)), cv2.imread(str(path)))
    path.write_bytes(content + b'\0\0trailer')  # of a camera
    assert read_image(str(path)).shape == (48, 64, 3)
    for length in (len(content) - 40, len(content) // 2, 30):
        path.write_bytes(content[:length])
        with pytest.raises(BrokenImageError, match=f'a{suffix} .*(runcated|identify)'):
            read_image(str(path))


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'', 'is empty'), (b'<html>404</html>', 'is truncated, or no image')],
)
def test_file_that_is_no_image(tmp_path, content, message):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=f'a.jpg {message}'):
        read_image(str(path))


def test_broken_image_is_named_when_met(coco):
    coco.truncate(5)
    dataset = coco.build()
    assert dataset[4]['img'].shape == (48, 64, 3)
    with pytest.raises(BrokenImageError) as error:
        dataset[5]
    message = str(error.value)
    assert str(coco.paths[5]) in message and 'truncated' in message
    assert '(sample 5)' in message and 'skip_broken=True' in message


def test_broken_image_names_itself_through_workers(coco):
    coco.truncate(0)
    loader = DataLoader(coco.build(test_mode=True), num_workers=1, collate_fn=list)
    with pytest.raises(BrokenImageError, match=f'{coco.paths[0]}.*sample 0'):
        list(loader)


def test_decode_all_names_all(coco, capfd):
    coco.truncate(2, 6)
    coco.paths[7].write_bytes(b'')
    with pytest.raises(BrokenImageError) as error:
        coco.build(decode_all=True)
    message = str(error.value)
    assert '3 of 8 images are broken' in message
    assert all(str(coco.paths[i]) in message for i in (2, 6, 7))
    assert 'Decoding the images of boxes.json' in capfd.readouterr().out


def test_decode_all_leaves_out(coco, log):
    coco.truncate(2, 6)
    dataset = coco.build(decode_all=True, skip_broken=True)
    assert len(dataset) == 6 and len(list(dataset)) == 6
    assert str(coco.paths[2]) in log[0] and '2 of 8 images are broken' in log[0]


def test_skipping_is_for_training(coco):
    with pytest.raises(ValueError, match='skip_broken=True is for training'):
        coco.build(test_mode=True, skip_broken=True)


MOSAIC = [
    *LOAD,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='Mosaic',
        img_scale=(64, 64),
        pre_transform=[*LOAD, dict(type='LoadAnnotations', with_bbox=True)],
    ),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_path',)),
]


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_skipped_and_counted_over_workers(coco, log, method):
    """Met as itself and inside a mosaic, by two workers that stay."""
    coco.truncate(1, 6)
    pipeline = copy.deepcopy(MOSAIC)
    dataset = coco.build(skip_broken=True, pipeline=pipeline)
    assert pipeline == MOSAIC  # the config is still the user's
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        collate_fn=list,
    )
    bad = {str(coco.paths[i]) for i in (1, 6)}
    for _ in range(2):
        samples = [sample for batch in loader for sample in batch]
        assert len(samples) == 8
        assert not bad & {sample['data_samples'].img_path for sample in samples}
    assert dataset.broken.nonzero().flatten().tolist() == [1, 6]

    DataReportHook().after_train_epoch(fake_runner(None, dataset))
    assert log[-1].startswith('2 of 8 images of') and log[-1].endswith(
        f'have been skipped: {coco.paths[1]}, {coco.paths[6]}'
    )


def test_skipped_is_named_once(coco, log):
    coco.truncate(1)
    dataset = coco.build(skip_broken=True)
    assert all(dataset[1]['img_path'] != str(coco.paths[1]) for _ in range(5))
    (line,) = log
    assert str(coco.paths[1]) in line and '(sample 1): skipped' in line


def test_nothing_left_to_skip_to(coco):
    coco.truncate(*range(8))
    with pytest.raises(BrokenImageError, match='No image of .*boxes.json'):
        coco.build(skip_broken=True)[0]


def test_report_looks_inside_wrappers(coco):
    dataset = coco.build()
    wrapped = SimpleNamespace(datasets=[SimpleNamespace(dataset=dataset), dataset])
    assert datasets.leaves(wrapped) == [dataset, dataset]


# -------------------------------------------------------------------------- Pascal VOC

XML = """<annotation><filename>whatever</filename>
<size><width>{width}</width><height>48</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>5</ymin><xmax>{xmax}</xmax><ymax>25</ymax>
</bndbox></object></annotation>"""


class Voc:
    """Four images with a box each; ``write`` spoils one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ('JPEGImages', 'Annotations'):
            (root / folder).mkdir()
        (root / 'train.txt').write_text('0\n1\n2\n3\n')
        for i in range(4):
            write_image(root / 'JPEGImages' / f'{i}.jpg', i)
            self.write(i, name=CLASSES[i % 2])

    def write(self, index: int, **values) -> None:
        values = dict(name='cat', difficult=0, width=64, xmin=5, xmax=25) | values
        path = self.root / 'Annotations' / f'{index}.xml'
        path.write_text(XML.format(**values))

    def build(self, classes=CLASSES, **kwargs):
        cfg = dict(
            type='VerifiedVOCDataset',
            data_root=str(self.root),
            ann_file='train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=classes),
            pipeline=LOAD,
        )
        return DATASETS.build({**cfg, **kwargs})


@pytest.fixture
def voc(tmp_path):
    init_default_scope('mmyolo')
    return Voc(tmp_path)


def test_good_voc_data(voc, log):
    voc.write(3, name='dog', difficult=1)
    dataset = voc.build()
    assert boxes_of(dataset) == [[4, 4, 24, 24]] * 4
    boxes = [dataset.get_data_info(i)['instances'][0] for i in range(4)]
    assert [box['bbox_label'] for box in boxes] == [0, 1, 0, 1]
    assert [box['ignore_flag'] for box in boxes] == [0, 0, 0, 1]
    assert not log


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
    assert boxes_of(voc.build()) == [[4, 4, 24, 24]] * 3
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
    assert len(boxes_of(voc.build(classes=('cat',)))) == 2
    (line,) = log
    assert line.endswith('names are no classes of the config are ignored: dog (2)')


def test_missing_voc_files(voc):
    with pytest.raises(
        FileNotFoundError, match='typo.txt does not exist: set ann_file'
    ):
        voc.build(ann_file='typo.txt')
    (voc.root / 'JPEGImages' / '1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 4 images .*1.jpg'):
        voc.build()
    (voc.root / 'Annotations' / '2.xml').unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 4 annotation files.*2.xml'):
        voc.build()
    (voc.root / 'train.txt').write_text('\n')
    with pytest.raises(ValueError, match='train.txt is empty'):
        voc.build()


@pytest.mark.parametrize('text', ['', '<annotation><object/></annotation>'])
def test_broken_voc_annotation(voc, text):
    (voc.root / 'Annotations' / '2.xml').write_text(text)
    with pytest.raises(ValueError, match='2.xml is no Pascal VOC annotation'):
        voc.build()


if BCCD.is_dir():  # real images with two real faults

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
        assert len(dataset) == images and len(boxes_of(dataset)) == boxes
        assert [line.partition('dropped: ')[2] for line in log] == (
            [f'1 of zero or negative size ({culprit})'] if culprit else []
        )
