"""What a notebook predicts with: from what, on what, and what it gets."""

import copy
import json
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from mmnextvit import predictors
from mmnextvit.datasets.images import BrokenImageError, read_image
from mmnextvit.engine.prediction import predict_files
from mmnextvit.engine.runner import build_model
from mmnextvit.predictors import Predictor
from mmnextvit.runtime import MAX_BATCH, Detector, Objects, OptionError
from mmnextvit.utils.errors import MissingFileError, UserError

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.tiny_run import write_tiny_run
from tests.helpers.toy_exports import CLASSES, metadata, write_onnx

# Arrays


def make_objects() -> Objects:
    return Objects(
        np.array([[1.23456, 2, 30, 40], [0, 0, 9, 9]]),
        np.array([0.912345, 0.4]),
        np.array([1, 0]),
        ['cat', 'dog'],
        np.zeros((2, 50, 60), bool),
    )


def make_none() -> Objects:
    return Objects(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), ['cat'])


def test_objects_are_a_list_of_dicts_and_arrays():
    objects = make_objects()
    plain = [
        {'class': 'dog', 'score': 0.9123, 'box': [1.23, 2, 30, 40]},
        {'class': 'cat', 'score': 0.4, 'box': [0, 0, 9, 9]},
    ]
    assert objects == plain and json.loads(json.dumps(objects)) == plain
    assert isinstance(objects, list)
    for same in (objects, copy.deepcopy(objects), pickle.loads(pickle.dumps(objects))):
        assert same == plain and same.names == ['dog', 'cat']
        np.testing.assert_allclose(same.boxes[0], [1.23456, 2, 30, 40], rtol=1e-6)
        assert same.labels.tolist() == [1, 0] and same.scores.dtype == np.float32


def test_objects_for_supervision():
    detections = make_objects().to_supervision()
    np.testing.assert_allclose(detections.xyxy[0], [1.23456, 2, 30, 40], rtol=1e-6)
    assert detections.class_id.tolist() == [1, 0]
    assert detections.data['class_name'].tolist() == ['dog', 'cat']
    assert detections.mask.shape == (2, 50, 60)
    np.testing.assert_allclose(detections.confidence, [0.912345, 0.4], rtol=1e-6)
    cats = detections[detections.data['class_name'] == 'cat']
    assert len(cats) == 1
    none = make_none()
    detections = none.to_supervision()
    assert none == [] and len(detections) == 0 and detections.xyxy.shape == (0, 4)
    assert len(detections.data['class_name']) == 0


def test_without_supervision_there_is_a_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(ImportError, match='pip install "supervision'):
        make_objects().to_supervision()


def test_objects_for_coco():
    objects = make_objects()
    objects.masks[0, 2:5, 1:30] = True
    results = json.loads(json.dumps(objects.to_coco(7)))
    assert [one['category_id'] for one in results] == [2, 1]
    assert [one['image_id'] for one in results] == [7, 7]
    np.testing.assert_allclose(results[0]['bbox'], [1.23456, 2, 28.76544, 38], 1e-5)
    assert results[1]['score'] == pytest.approx(0.4)
    decoded = pycocotools.mask.decode([one['segmentation'] for one in results])
    np.testing.assert_array_equal(decoded.transpose(2, 0, 1), objects.masks)
    for ids in ([30, 10], {'cat': 30, 'dog': 10, 'cow': 5}):
        found = objects.to_coco('a', ids)
        assert [one['category_id'] for one in found] == [10, 30]
    for ids in ([30], {'cat': 30}):
        with pytest.raises(OptionError, match="no id of the class 'dog'"):
            objects.to_coco('a', ids)
    assert make_none().to_coco(1) == []


def test_results_for_coco_are_what_its_evaluation_reads(capsys):
    objects = make_objects()
    truth = COCO()
    truth.dataset = dict(
        info={},
        images=[dict(id=7, width=60, height=50)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[
            dict(id=1, image_id=7, category_id=2, bbox=[1, 2, 29, 38], area=1102,
                 iscrowd=0),
            dict(id=2, image_id=7, category_id=1, bbox=[0, 0, 9, 9], area=81,
                 iscrowd=0),
        ],
    )  # fmt: skip
    truth.createIndex()
    objects.masks = None
    evaluation = COCOeval(truth, truth.loadRes(objects.to_coco(7)), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[1] == pytest.approx(1)  # mAP50


def test_objects_for_yolo():
    objects = make_objects()
    lines = objects.to_yolo(60, 50).splitlines()
    assert lines[1] == '0 0.075000 0.090000 0.150000 0.180000'
    assert lines[0].split()[0] == '1' and len(lines[0].split()) == 5
    x, y, width, height = map(float, lines[0].split()[1:])
    box = [(x - width / 2) * 60, (y - height / 2) * 50, (x + width / 2) * 60]
    np.testing.assert_allclose(box, [1.23456, 2, 30], atol=1e-4)
    assert objects.to_yolo(60, 50, scores=True).splitlines()[1].endswith(' 0.400000')
    assert make_none().to_yolo(60, 50) == ''
    with pytest.raises(OptionError, match='boxes lie outside'):
        objects.to_yolo(60, 30)
    for size in ((0, 50), (60, -1), (float('nan'), 50)):
        with pytest.raises(OptionError, match='above 0'):
            objects.to_yolo(*size)


def test_neither_package_is_imported_unasked(monkeypatch):
    for name in ('supervision', 'pycocotools', 'pycocotools.mask'):
        monkeypatch.setitem(sys.modules, name, None)
    objects = make_objects()
    assert objects.to_yolo(60, 50)
    with pytest.raises(ImportError, match='pip install "pycocotools"'):
        objects.to_coco(1)
    objects.masks = None
    assert len(objects.to_coco(1)) == 2


# An exported file


def test_an_exported_file_alone(tmp_path):
    path = write_onnx(tmp_path / 'toy.onnx', metadata())
    image = np.full((64, 64, 3), 255, np.uint8)
    predictor = Predictor(path)
    objects = predictor(image, 0.5)
    assert objects == Detector(path)(image, 0.5) and len(objects) == 2
    assert predictor.classes == CLASSES and predictor.model is None
    assert objects.to_supervision().data['class_name'][0] == CLASSES[2]
    assert [len(o) for o in predictor([image, image // 2], 0.5)] == [2, 0]
    assert predictor.draw(image, predictor.detect(image)).shape == image.shape
    with pytest.raises(UserError, match='--amp'):
        Predictor(path, amp=True)
    with pytest.raises(UserError, match='need a checkpoint'):
        predictor.detect_with_maps(image)


def test_batches_of_an_exported_file(tmp_path):
    best = dict(all=0.2, classes={CLASSES[0]: 0.95, CLASSES[2]: 0.5})
    path = write_onnx(tmp_path / 'toy.onnx', metadata(best_scores=best))
    white = np.full((64, 64, 3), 255, np.uint8)
    images = [white, white // 2, white]
    for one in (Predictor(path), Detector(path)):
        by_class = dict(zip(CLASSES, (0.95, 0.2, 0.5)))
        assert one.best_scores == by_class
        found = one.batch(iter(images), 'best', batch_size=2)
        assert found == [one(image, 'best') for image in images]
        assert [objects.names for objects in found[:2]] == [
            [CLASSES[2], CLASSES[1]],
            [],
        ]
        assert one.batch(images, 0.5) == [one(image, 0.5) for image in images]
        chosen = {**one.best_scores, CLASSES[0]: 0.6}
        assert one(white, chosen).names == [CLASSES[2], CLASSES[0], CLASSES[1]]
        assert one.batch(images, chosen) == [one(image, chosen) for image in images]
        for wrong, problem in (
            ({CLASSES[0]: 0.5}, 'has no score in it'),
            ({**by_class, 'cow': 0.5}, "'cow' is no class of the file"),
            ({**by_class, 'red': 2}, "that of 'red' is 2, and must be a number"),
            ({**by_class, 'red': None}, "that of 'red' is None"),
        ):
            with pytest.raises((OptionError, UserError), match=problem):
                one(white, wrong)
    plain = write_onnx(tmp_path / 'plain.onnx', metadata())
    assert Predictor(plain).best_scores is Detector(plain).best_scores is None
    with pytest.raises(UserError, match='no best scores'):
        Predictor(plain).batch(images, 'best')
    fixed = Predictor(write_onnx(tmp_path / 'fixed.onnx', metadata(batch=2)))
    assert len(fixed.batch(images)) == len(fixed.batch(images, batch_size=2)) == 3
    with pytest.raises(UserError, match='batch_size=4: the file takes 2 at a time'):
        fixed.batch(images, batch_size=4)
    for size in (0, -1, 2.0, True, '2'):
        with pytest.raises(UserError, match='not a whole number from 1 on'):
            fixed.batch(images, batch_size=size)
    for single in (white, str(path), Image.fromarray(white)):
        with pytest.raises(UserError, match='a single image'):
            fixed.batch(single)


# A checkpoint


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> SimpleNamespace:
    """A run's folder, whose model finds something in every cell."""
    folder = tmp_path_factory.mktemp('run')
    cfg = Config.fromfile(write_tiny_run(folder))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = build_model(cfg)
    for conv in model.bbox_head.head_module.convs_pred:
        conv.bias.data.view(3, -1)[:, 4:6] = 3  # that there is an object, and its class
    (folder / 'run').mkdir()
    checkpoint = folder / 'run' / 'best.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    cfg.dump(folder / 'run' / 'tiny.py')
    image = sorted((folder / 'data' / 'val').iterdir())[0]
    predictor = Predictor(cfg, checkpoint, 'cpu')
    return SimpleNamespace(
        cfg=cfg, folder=folder / 'run', checkpoint=checkpoint, image=image,
        predictor=predictor, objects=predictor(cv2.imread(str(image))),
    )  # fmt: skip


@pytest.mark.slow
def test_what_stands_for_a_config_and_a_checkpoint(run):
    assert len(run.objects) > 3
    for sources in (
        (run.folder,),
        (SimpleNamespace(work_dir=str(run.folder)),),
        (run.folder / 'tiny.py', run.checkpoint),
        (str(run.folder), str(run.checkpoint)),
        (run.cfg, run.folder),
    ):
        assert Predictor(*sources, device='cpu')(run.image) == run.objects, sources


@pytest.mark.slow
@pytest.mark.parametrize(
    'source, error, problem',
    [
        ('no', MissingFileError, 'no does not exist'),
        ('best.pth', UserError, 'best.pth alone does not say .* the folder of a run'),
        ('tiny.py', UserError, r'tiny.py alone does not say both'),
        ('cfg', UserError, 'a config alone does not say both'),
        ('empty', MissingFileError, 'not that of a run'),
        (5, UserError, '5 alone'),
    ],
)
def test_what_does_not(source, error, problem, run):
    (run.folder / 'empty').mkdir(exist_ok=True)
    named = dict(cfg=run.cfg).get(source, source)
    if isinstance(named, str):
        named = run.folder / named
    with pytest.raises(error, match=problem):
        Predictor(named)


@pytest.mark.slow
def test_an_image_in_every_form(run):
    array = cv2.imread(str(run.image))
    forms = [str(run.image), run.image, array, Image.fromarray(array[..., ::-1])]
    forms.append(np.dstack([array, array[..., 0]]))
    for form in forms:
        assert run.predictor(form) == run.objects
    for together in (run.predictor(forms), run.predictor(tuple(forms))):
        for objects in together:
            np.testing.assert_allclose(objects.boxes, run.objects.boxes, atol=1e-2)
            assert objects.names == run.objects.names
    assert run.predictor([array])[0].to_supervision().confidence.max() > 0.3
    with pytest.raises(BrokenImageError, match='image 1 of the list: .*float64'):
        run.predictor([array, array / 255])
    with pytest.raises(BrokenImageError, match='no.jpg'):
        run.predictor([array, 'no.jpg'])
    with pytest.raises(UserError, match='the list of images is empty'):
        run.predictor([])
    for score_thr in (30, -0.1, 'high', None, float('nan')):
        with pytest.raises(UserError, match='number from 0 to 1'):
            run.predictor(array, score_thr)


@pytest.mark.slow
def test_images_of_one_shape_go_through_together(run, monkeypatch):
    sizes = []
    step = run.predictor.model.test_step

    def count(batch):
        sizes.append(len(batch['inputs']))
        return step(batch)

    monkeypatch.setattr(run.predictor.model, 'test_step', count)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + i, 64, 3), np.uint8) for i in range(10)]
    together = run.predictor(images, 0.1)
    assert sizes == [MAX_BATCH, 2]  # the config makes all of them 64 x 64
    sizes.clear()
    fours = run.predictor.batch(iter(images), 0.1, batch_size=4)
    assert list(map(len, fours)) == list(map(len, together))
    assert sizes == [4, 4, 2]
    for image, objects in zip(images, together):
        alone = run.predictor(image, 0.1)
        assert len(alone) == len(objects)
        np.testing.assert_allclose(
            np.sort(objects.scores), np.sort(alone.scores), atol=1e-4
        )


@pytest.mark.slow
def test_threads_that_share_a_predictor_get_their_own(run, monkeypatch):
    """MMYOLO's head keeps the priors of the last image's size on itself."""
    predictor = Predictor(run.cfg, run.checkpoint, 'cpu', rect=True)
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (30, 64), (64, 30)] * 3
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    shapes = {predictor.prepare(image).inputs['inputs'].shape for image in images}
    alone = [predictor(image, 0.1) for image in images]
    maps = [predictor.detect_with_maps(image)[2] for image in images]
    assert len(shapes) == 3 and all(alone)
    step, inside, most = predictor.model.test_step, [], []

    def count(batch):
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.001)
        try:
            return step(batch)
        finally:
            inside.remove(threading.get_ident())

    monkeypatch.setattr(predictor.model, 'test_step', count)

    def look(i: int) -> None:
        image = images[i % len(images)]
        objects, expected = predictor(image, 0.1), alone[i % len(images)]
        np.testing.assert_allclose(objects.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(objects.scores, expected.scores, atol=1e-5)
        if i % 4 == 0:
            _, _, found = predictor.detect_with_maps(image)
            for name, values in maps[i % len(images)].items():
                torch.testing.assert_close(found[name], values)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(look, range(80)))
    assert max(most) == 1 and len(most) == 100


@pytest.mark.slow
def test_files_give_what_images_give_one_by_one(run, tmp_path):
    """Bit for bit, though other threads read, prepare and draw them."""
    predictor = run.predictor
    paths = sorted(run.image.parent.iterdir()) * 3
    found = list(
        predict_files(
            *(predictor, paths, tmp_path, 0.0),
            show_progress=False,
            prepare=predictor.prepare,
        )
    )
    assert [entry['file'] for entry in found] == list(map(str, paths))
    for path, entry in zip(paths, found):
        image = read_image(str(path))
        sample = predictor.detect(image, 0.0)
        again = predictor.detect(predictor.prepare(image), 0.0)
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(sample.pred_instances[key], again.pred_instances[key])
        assert entry['objects'] == predictor.list_objects(sample) != []
        content = cv2.imencode(path.suffix, predictor.draw(image, sample))[1]
        assert (tmp_path / entry['drawn']).read_bytes() == content.tobytes()


@pytest.mark.slow
def test_masks_come_along(run):
    masks = torch.zeros(1, 8, 9, dtype=torch.bool)
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.tensor([[1.0, 2, 3, 4]]),
            scores=torch.tensor([0.5]),
            labels=torch.tensor([0]),
            masks=masks,
        )
    )
    objects = run.predictor.list_objects(sample)
    assert (objects.masks == masks.numpy()).all()
    assert objects.to_supervision().mask.shape == (1, 8, 9)


@pytest.mark.slow
def test_a_run_is_no_openvino_folder(tmp_path: Path):
    (tmp_path / 'model.xml').touch()
    assert not predictors.is_run(tmp_path) and not predictors.is_run(7)
    assert predictors.is_run(tmp_path.parent)
