"""Labels that predictions are written as, read by our datasets and by supervision."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmnextvit.engine.prediction import open_results, predict_files
from mmnextvit.folder_import.new import Options, read_folder
from mmnextvit.labels import write
from mmnextvit.labels.choices import NAMES, parse_formats
from mmnextvit.labels.doubts import describe_doubt, measure_doubts
from mmnextvit.labels.images import name_images
from mmnextvit.labels.outlines import join_polygons, outline_mask
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
import supervision
from PIL import Image

from tests.helpers.scripted_predictor import Found, ScriptedPredictor

CLASSES = ('cat', 'no', "a 'fine' <dog> & ünïque")
IMAGE_FOLDERS = dict(coco='images', yolo='images', voc='JPEGImages', labelme='')
SIZES = {1: (96, 64), 2: (64, 48), 3: (300, 200), 4: (64, 64), 5: (80, 60), 6: (90, 70)}

# By the number of the image: what is found in it, in the pixels that EXIF shows.
FOUND: dict[int, list[Found]] = {
    1: [(0, 0.9, (10.25, 5.5, 60.75, 40.0)), (2, 0.8, (0.0, 0.0, 96.0, 64.0))],
    2: [(1, 0.7, (3.33, 4.44, 30.3, 20.2))],
    3: [(0, 0.31, (100.1, 50.2, 101.9, 199.9)), (0, 0.2, (5.0, 5.0, 50.0, 50.0))],
    5: [(2, 0.95, (30.6, 50.2, 59.5, 79.4))],  # the image is 60 wide as it is shown
    6: [(1, 0.4, (-3.0, 60.0, 20.0, 75.0)), (1, 0.5, (8.0, 8.0, 8.4, 30.0))],
}
FILES = {
    'a/x.png': 1, 'b/x.png': 2, 'b/x.bmp': 3, 'c.png': 4, 'turned.jpg': 5,
    'images/classes.png': 6,
}  # fmt: skip
# What they are called among the labels: x.bmp comes before x.png.
NAMES_THERE = {
    'a/x.png': 'a__x.png', 'b/x.png': 'b__x_png.png', 'b/x.bmp': 'b__x.bmp',
    'c.png': 'c.png', 'turned.jpg': 'turned.jpg',
    'images/classes.png': 'images__classes.png',
}  # fmt: skip


def write_images(folder: Path) -> list[Path]:
    """The images of `FILES`, whose first pixels are their numbers in blue."""
    for name, number in FILES.items():
        width, height = SIZES[number]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3))
        pixels = np.kron(pixels[::8, ::8], np.ones((8, 8, 1)))[:height, :width]
        pixels[:16, :16] = pixels[-16:, :16] = 0, 0, number * 20
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if name == 'turned.jpg':
            exif[0x112] = 6
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(path, exif=exif, quality=100, subsampling=0)
    return sorted(folder / name for name in FILES)


class NumberedPredictor(ScriptedPredictor):
    """Knows the images of `FILES`, also from a JPEG."""

    def detect(self, image, score_thr):
        image = np.round(image / 20).astype(np.uint8)
        return super().detect(image, score_thr)


def predict(
    files: Sequence[Path], out: Path, formats: Sequence[str] = NAMES
) -> list[dict]:
    predictor = NumberedPredictor(CLASSES, FOUND)
    about = dict(classes=predictor.classes)
    with open_results(out, about, formats) as results:
        for found in predict_files(
            predictor, files, out, 0.3, show_progress=False, with_labels=True
        ):
            results.predictions.add(found)
    return results.predictions.entries


def list_expected(number: int) -> list[tuple[str, list[float]]]:
    """What stands in the labels: inside the image, and no box under a pixel."""
    width, height = SIZES[number]
    if number == 5:
        width, height = height, width
    expected = []
    for label, score, (x1, y1, x2, y2) in FOUND.get(number, ()):
        box = [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]
        if score >= 0.3 and min(box[2] - box[0], box[3] - box[1]) >= 1:
            expected.append((CLASSES[label], box))
    return sorted(expected)


def compare(
    found: Mapping[str, Sequence[tuple[str, Sequence[float]]]], tolerance: float
) -> None:
    """Compares what was read of each image, by its name among the labels."""
    assert found.keys() == {NAMES_THERE[name] for name in FILES}
    for name, number in FILES.items():
        there, expected = sorted(found[NAMES_THERE[name]]), list_expected(number)
        assert [one for one, _ in there] == [one for one, _ in expected], name
        for (_, box), (_, wanted) in zip(there, expected):
            np.testing.assert_allclose(box, wanted, atol=tolerance, err_msg=name)


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> Path:
    """A folder with ``data`` and, of all formats, ``out``."""
    folder = tmp_path_factory.mktemp('written')
    predict(write_images(folder / 'data'), folder / 'out')
    return folder


# In VOC a side is a whole pixel.
TOLERANCES = dict(coco=0.006, yolo=0.006, voc=1, labelme=0.006)


@pytest.mark.parametrize('name', NAMES)
def test_our_own_datasets_read_them(name, written):
    """As ``mmnextvit new`` does, from the folder of the format alone."""
    folder = written / 'out' / 'labels' / name
    options = Options(str(folder), Path('my.py'))
    contents = read_folder(options, written / f'my_{name}')
    assert not [note for note in contents.reading.notes if 'left out' in note]
    found = {
        Path(s.path).name: [
            (contents.classes[label], box)
            for label, box in zip(s.labels, s.boxes.tolist())
        ]
        for s in contents.samples['train']
    }
    compare(found, TOLERANCES[name])
    if name in ('coco', 'yolo'):  # the others have no list of classes
        assert contents.classes == CLASSES


def load(name: str, folder: Path) -> supervision.DetectionDataset:
    """A format's images by supervision."""
    images, dataset = str(folder / IMAGE_FOLDERS[name]), supervision.DetectionDataset
    if name == 'coco':
        file = folder / 'annotations' / 'instances_default.json'
        return dataset.from_coco(images, str(file))
    if name == 'yolo':
        return dataset.from_yolo(
            images, str(folder / 'labels'), str(folder / 'data.yaml')
        )
    if name == 'voc':
        return dataset.from_pascal_voc(images, str(folder / 'Annotations'))
    return dataset.from_labelme(images, images)


@pytest.mark.parametrize('name', NAMES)
def test_supervision_reads_them(name, written):
    dataset = load(name, written / 'out' / 'labels' / name)
    found = {
        Path(path).name: [
            (dataset.classes[label], box)
            for label, box in zip(detections.class_id, detections.xyxy)
        ]
        for path, _, detections in dataset
    }
    compare(found, TOLERANCES[name])


def test_each_format_holds_the_images_and_nothing_else_is_changed(written):
    for name, there in NAMES_THERE.items():
        for format_name, images in IMAGE_FOLDERS.items():
            copy = written / 'out' / 'labels' / format_name / images / there
            assert copy.read_bytes() == (written / 'data' / name).read_bytes()
            assert not copy.is_symlink()
    yolo = written / 'out' / 'labels' / 'yolo'
    assert (yolo / 'labels' / 'c.txt').read_text() == ''
    assert (yolo / 'classes.txt').read_text().splitlines() == list(CLASSES)
    turned = json.loads((written / 'out/labels/labelme/turned.json').read_text())
    assert (turned['imageWidth'], turned['imageHeight']) == (60, 80)
    assert turned['imagePath'] == 'turned.jpg'
    assert not [*(written / 'out').rglob('.*')]


def test_results_are_those_without_labels(written, tmp_path):
    files = sorted(written / 'data' / name for name in FILES)
    predictor = NumberedPredictor(CLASSES, FOUND)
    plain = list(predict_files(predictor, files, tmp_path, 0.3, show_progress=False))
    content = json.loads((written / 'out' / 'predictions.json').read_text())
    assert [e['objects'] for e in plain] == [
        e['objects'] for e in content['predictions']
    ]
    more = {'width', 'height', 'doubt', 'reason'}
    assert {e.keys() - p.keys() == more for p, e in zip(plain, content['predictions'])}


def test_images_of_another_disk_are_copied(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, 'Invalid cross-device link')

    monkeypatch.setattr(os, 'link', refuse)
    predict(write_images(tmp_path / 'data')[:1], tmp_path / 'out', ['yolo'])
    (image,) = (tmp_path / 'out' / 'labels' / 'yolo' / 'images').iterdir()
    (source,) = (tmp_path / 'data' / 'a').iterdir()
    assert image.read_bytes() == source.read_bytes()
    assert not image.samefile(source)


def test_an_interrupt_leaves_whole_labels_of_what_was_found(tmp_path):
    files, out = write_images(tmp_path / 'data'), tmp_path / 'out'
    predictor = NumberedPredictor(CLASSES, FOUND)
    with (
        pytest.raises(KeyboardInterrupt),
        open_results(out, dict(classes=predictor.classes), ['yolo']) as results,
    ):
        found = predict_files(
            predictor, files, out, show_progress=False, with_labels=True
        )
        for one, _ in zip(found, range(2)):
            results.predictions.add(one)
        raise KeyboardInterrupt
    yolo = out / 'labels' / 'yolo'
    images = {p.stem for p in (yolo / 'images').rglob('*.*')}
    labels = {p.stem for p in (yolo / 'labels').rglob('*.txt')} - {'classes'}
    assert len(images) == 2 and images == labels
    assert len((out / 'doubts.csv').read_text().splitlines()) == 3
    assert json.loads((out / 'predictions.json').read_text())['partial']


def test_an_interrupt_while_they_are_written_leaves_none(tmp_path, monkeypatch):
    files = write_images(tmp_path / 'data')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, '_put_image', interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(files, tmp_path / 'out')
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'predictions.json', 'doubts.csv', 'drawn'}
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert len(content['predictions']) == len(files)


def test_frames_of_videos_have_doubts_alone(tmp_path):
    files = write_images(tmp_path / 'data')[:1]
    film = tmp_path / 'data' / 'film.avi'
    video = cv2.VideoWriter(
        str(film), cv2.VideoWriter_fourcc(*'MJPG'), 5, (48, 32)
    )  # fmt: skip
    for _ in range(2):
        video.write(np.zeros((32, 48, 3), np.uint8))
    video.release()
    out = tmp_path / 'out'
    predictor = NumberedPredictor(CLASSES, FOUND)
    with open_results(out, dict(classes=predictor.classes), ['coco']) as results:
        for found in predict_files(
            predictor, [*files, film], out, show_progress=False, with_labels=True
        ):
            results.predictions.add(found)
    content = json.loads(
        (out / 'labels' / 'coco' / 'annotations' / 'instances_default.json').read_text()
    )
    assert [image['file_name'] for image in content['images']] == ['x.png']
    lines = results.describe_labels()
    assert lines[0].startswith('labels of 1 images: ')
    assert lines[-1].startswith('2 frames of videos have no labels')
    rows = list(csv.DictReader((out / 'doubts.csv').open()))
    assert sorted(row['frame'] for row in rows) == ['', '0', '1']


# Masks


def fill(polygon: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose middles lie in a polygon, by Matplotlib."""
    from matplotlib.path import Path as Outline

    height, width = size
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([xs.ravel(), ys.ravel()], axis=1)
    outline = Outline(np.reshape(polygon, (-1, 2)))
    inside = outline.contains_points(points, radius=1e-6)
    inside |= outline.contains_points(points, radius=-1e-6)
    return inside.reshape(size)


def test_outlines_hold_the_pixels_of_a_mask():
    mask = np.zeros((40, 60), bool)
    mask[5:20, 8:30] = True
    mask[10:35, 20:28] = True
    mask[30:38, 40:55] = True
    parts = outline_mask(mask)
    assert len(parts) == 2
    assert (sum(fill(part, mask.shape) for part in parts) > 0).tolist() == mask.tolist()
    rng = np.random.default_rng(0)
    blobs = cv2.blur(rng.random((60, 80)), (9, 9)) > 0.5
    filled = sum(fill(part, blobs.shape) for part in outline_mask(blobs)) > 0
    assert (
        filled[blobs].mean() > 0.97
        and filled[cv2.blur(blobs * 1.0, (3, 3)) == 0].mean() < 0.05
    )
    joined = cv2.fillPoly(
        np.zeros((400, 600), np.uint8),
        [np.round(np.reshape(join_polygons(parts), (-1, 2)) * 10).astype(np.int32)],
        1,
    )
    assert joined.sum() == pytest.approx(100 * mask.sum(), rel=0.03)
    line = np.zeros((40, 60), bool)
    line[3, 10:20] = True
    (outline,) = outline_mask(line)
    assert fill(outline, line.shape).tolist() == line.tolist()
    assert outline_mask(np.zeros((4, 4), bool)) == []


def test_masks_are_outlines_where_a_format_has_them(tmp_path):
    """An object of two parts, one of one, and one without a pixel."""
    image = np.zeros((48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 4:20, 4:20] = masks[0, 4:20, 30:50] = True
    masks[1, 30:40, 10:40] = True
    boxes = [(4.0, 4.0, 50.0, 20.0), (10.0, 30.0, 40.0, 40.0), (1.0, 41.0, 9.0, 47.0)]
    found = [(0, 0.9 - 0.1 * i, box) for i, box in enumerate(boxes)]
    predictor = ScriptedPredictor(['cat'], {0: found}, {0: masks})
    out = tmp_path / 'out'
    with open_results(out, dict(classes=['cat']), NAMES) as results:
        for one in predict_files(
            predictor, [tmp_path / 'x.png'], out, show_progress=False, with_labels=True
        ):
            results.predictions.add(one)
    for name in NAMES:
        folder = out / 'labels' / name
        contents = read_folder(
            Options(str(folder), Path('my.py')), tmp_path / f'my_{name}'
        )
        (sample,) = contents.samples['train']
        np.testing.assert_allclose(
            sample.boxes, boxes, atol=1 if name == 'voc' else 0.01
        )
        dataset = load(name, folder)
        ((_, _, detections),) = dataset
        if name == 'voc':
            assert detections.mask is None
            continue
        for mask, wanted in zip(detections.mask[:2], masks):
            assert (mask & wanted).sum() / (mask | wanted).sum() > 0.85, name


# Names


def test_names_of_images_differ_and_mislead_no_program(tmp_path):
    paths = ['x.jpg', 'X.png', 'x_png.jpg', 'x.png', '\udcff.jpg', 'q/r/x.jpg']
    named = name_images([str(tmp_path / path) for path in [*paths, 'Classes.webp']])
    assert named == [
        *('x.jpg', 'X_png_2.png', 'x_png.jpg', 'x_png_3.png', '_.jpg', 'q__r__x.jpg'),
        'Classes_webp.webp',
    ]
    assert name_images([]) == []
    (long, other) = name_images([f'/{"a" * 200}/{"é" * 100}/x.jpg', '/b.jpg'])
    assert len(long.encode()) <= 204 and long.endswith('é__x.jpg') and other == 'b.jpg'


def test_names_of_formats():
    assert parse_formats('coco, YOLO') == ['coco', 'yolo']
    with pytest.raises(UserError, match="no format 'labelimg'.*did you mean labelme"):
        parse_formats('coco,labelimg')


# Doubts


def test_a_box_is_in_doubt_near_its_threshold():
    scores = np.array([0.3, 0.15, 0.65, 0.149, 0.651, 0.0, 1.0, 0.225])
    doubts = measure_doubts(scores, np.full(8, 0.3))
    half = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    at_225 = -(0.375 * np.log2(0.375) + 0.625 * np.log2(0.625))
    np.testing.assert_allclose(doubts, [1, half, half, 0, 0, 0, 0, at_225])
    # also at the ends of what a threshold can be
    assert measure_doubts(np.array([0.0, 0.6]), np.zeros(2)).tolist() == [1, 0]
    assert measure_doubts(np.array([1.0, 0.4]), np.ones(2)).tolist() == [1, 0]
    assert describe_doubt([], np.zeros(0), np.zeros(0)).doubt == 0


def test_images_are_listed_by_doubt(written):
    """Boxes below the threshold count, which stand in no label."""
    with (written / 'out' / 'doubts.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row['file']).name for row in rows] == [
        *('classes.png', 'x.bmp', 'x.png', 'x.png', 'c.png', 'turned.jpg')
    ]
    doubts = [float(row['doubt']) for row in rows]
    assert doubts == sorted(doubts, reverse=True) and doubts[2:] == [0] * 4
    assert rows[1]['reason'] == '2 boxes between 0.15 and 0.65: cat 0.31, cat 0.20'
    assert rows[-1]['reason'] == 'no box near the threshold'


def test_thresholds_of_classes_count_for_their_own_boxes():
    scores, thresholds = np.array([0.5, 0.5, 0.7]), np.array([0.5, 0.1, 0.7])
    doubt = describe_doubt(['cat', 'dog', 'cow'], scores, thresholds)
    near = 'near the thresholds of their classes'
    assert doubt.reason == f'3 boxes {near}: cat 0.50, cow 0.70, dog 0.50'


def test_best_scores_decide_what_is_labelled_and_in_doubt(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), np.zeros((48, 64, 3), np.uint8))
    box = (4.0, 4.0, 50.0, 20.0)
    found = {0: [(0, 0.5, box), (1, 0.45, box), (1, 0.2, box)]}
    predictor = ScriptedPredictor(['cat', 'dog'], found, best=[0.6, 0.1])
    (entry,) = predict_files(
        *(predictor, [tmp_path / 'x.png'], tmp_path / 'out', 'best'),
        show_progress=False,
        with_labels=True,
    )
    assert [one['class'] for one in entry['objects']] == ['dog', 'dog']
    near = '3 boxes near the thresholds of their classes: '
    assert entry['reason'] == f'{near}dog 0.20, cat 0.50, dog 0.45'
