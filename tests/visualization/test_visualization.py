"""Where the boxes land, and how the sheet is laid out."""

from pathlib import Path
from types import SimpleNamespace

from mmnextvit.engine.prediction import Shot
from mmnextvit.runtime import name_image, write_crops
from mmnextvit.runtime.drawing import write_drawing
from mmnextvit.visualization.predictions import (
    ContactSheetHook,
    PairVisualizer,
    draw_pair,
    read_drawn,
)
from mmnextvit.visualization.sheets import draw_captioned, draw_contact_sheet
from mmnextvit.visualization.writers import open_drawing

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from tests.helpers.turned_images import SIDEWAYS, find_red, write_turned

METAINFO = dict(classes=('cat', 'dog'), palette=[(255, 0, 0), (0, 255, 0)])


def sample(truth: list, boxes: list, scores: list, path: str = '') -> DetDataSample:
    def instances(boxes, **more):
        labels = torch.zeros(len(boxes), dtype=torch.long)
        boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
        return InstanceData(bboxes=boxes, labels=labels, **more)

    return DetDataSample(
        gt_instances=instances(truth),
        pred_instances=instances(boxes, scores=torch.tensor(scores)),
        metainfo=dict(img_path=path),
    )


def test_sheet_puts_each_image_in_the_middle_of_its_cell():
    values = [10, 20, 30]
    sizes = [(4, 6), (2, 6), (4, 2)]
    images = [
        np.full((*size, 3), v, np.uint8) for v, size in zip(values, sizes, strict=True)
    ]
    sheet = draw_contact_sheet(images, columns=2, gap=2)
    assert sheet.shape == (2 + 2 * (4 + 2), 2 + 2 * (6 + 2), 3)
    assert (sheet[2:6, 2:8] == 10).all()
    assert (sheet[3:5, 10:16] == 20).all()
    assert (sheet[8:12, 4:6] == 30).all()
    assert [(sheet == v).all(2).sum() for v in values] == [24, 12, 8]
    assert (sheet == 255).all(2).sum() == sheet[..., 0].size - 24 - 12 - 8


def test_fewer_images_than_columns():
    assert draw_contact_sheet([np.zeros((4, 6, 3), np.uint8)], 5, gap=1).shape == (
        6,
        8,
        3,
    )


@pytest.mark.parametrize('size', [40, 400])
def test_truth_left_predictions_right_small_ones_enlarged(size):
    visualizer = PairVisualizer()
    visualizer.dataset_meta = METAINFO
    a, b, c = (torch.tensor(box) * size for box in (
        [0.2, 0.5, 0.4, 0.9], [0.5, 0.5, 0.7, 0.9], [0.1, 0.1, 0.3, 0.3]
    ))  # fmt: skip
    image = np.full((size, size, 3), 128, np.uint8)
    boxes = sample([a.tolist()], [b.tolist(), c.tolist()], [0.9, 0.1])
    pair = draw_pair(image, boxes, visualizer, score_thr=0.3, min_side=320)
    drawn = max(size, 320)
    assert pair.shape == (drawn + 24, 2 * drawn, 3)
    for half, box in ((pair[24:, :drawn], a), (pair[24:, drawn:], b)):
        changed = np.abs(half.astype(int) - 128).max(2) > 40
        below = changed[int(0.55 * drawn) :]  # the label stands at the box's top
        ys, xs = below.nonzero()
        x1, _, x2, y2 = (box * drawn / size).tolist()
        assert xs.min() == pytest.approx(x1, abs=5)
        assert xs.max() == pytest.approx(x2, abs=5)
        assert ys.max() + int(0.55 * drawn) == pytest.approx(y2, abs=5)
        assert not changed[: int(0.35 * drawn)].any()  # where the unsure one would be
    assert boxes.gt_instances.bboxes.tolist() == [pytest.approx(a.tolist())]


def test_images_without_annotations():
    """As MMDetection packs them, without boxes."""
    visualizer = PairVisualizer()
    visualizer.dataset_meta = METAINFO
    empty = sample([], [[5, 5, 30, 30]], [0.9])
    nothing = empty.clone()
    nothing.gt_instances = InstanceData()
    image = np.full((40, 40, 3), 128, np.uint8)
    pairs = [draw_pair(image, s, visualizer) for s in (empty, nothing)]
    assert np.array_equal(*pairs) and 'bboxes' not in nothing.gt_instances


@pytest.mark.slow
def test_hook_draws_the_first_images(tmp_path):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.zeros((50, 100, 3), np.uint8))
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=METAINFO))
    runner = SimpleNamespace(
        work_dir=tmp_path,
        val_dataloader=loader,
        logger=MMLogger.get_current_instance(),
    )
    hook = ContactSheetHook(count=3)
    for epoch in range(2):
        hook.before_val_epoch(runner)
        for i in range(4):
            outputs = [sample([[5, 5, 30, 30]], [], [], path)] * 2
            hook.after_val_iter(runner, i, {}, outputs)
        hook.after_val_epoch(runner)
        sheet = cv2.imread(str(tmp_path / 'predictions.jpg'))
        # Three pairs of 320 x 160 in two columns, with captions
        assert sheet.shape == (2 * (160 + 24) + 3 * 8, 2 * 640 + 3 * 8, 3), epoch


@pytest.mark.parametrize('text', ['a caption longer than its image', 'W|@j', '/_fjg'])
def test_a_caption_is_never_cut(text):
    """OpenCV 5 has a narrower font than 4: how wide a text is, it says itself."""
    image = np.zeros((10, 20, 3), np.uint8)
    sheet = draw_captioned(image, (text,), min_width=40)
    width = sheet.shape[1]
    assert (sheet[-10:, :20] == 0).all() and (sheet[-10:, 20:] == 255).all()
    wide = np.full((100, 900, 3), 255, np.uint8)
    font, black = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    cv2.putText(wide, text, (300, 50), font, 0.5, black, 1, cv2.LINE_AA)
    drawn = [crop_drawn(part) for part in (sheet[:-10], wide)]
    assert np.array_equal(*drawn)
    assert max(40, drawn[0].shape[1]) <= width <= max(40, drawn[0].shape[1] + 6)
    assert draw_captioned(image, ('a',), min_width=40).shape[1] == 40


def crop_drawn(image: np.ndarray) -> np.ndarray:
    """The part of an image that has all that is not white."""
    rows, columns = np.nonzero((image < 255).any(2))
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_a_video_that_cannot_be_made_is_an_error(tmp_path):
    """Its frames would go nowhere, and its name would be told."""
    frame = np.zeros((16, 16, 3), np.uint8)
    path = tmp_path / 'x.mp4'
    with (
        pytest.raises(OSError, match='OpenCV cannot write') as error,
        open_drawing(path, fps=-1) as write,
    ):
        write(frame)
    assert error.value.filename == str(path)
    assert not any(tmp_path.iterdir())
    with open_drawing(path, fps=5) as write:
        write(frame)
    assert path.stat().st_size > 0


def test_images_that_are_too_long_for_their_format(tmp_path):
    """JPEG holds 65500 pixels of a side: a PNG takes its place."""
    long: np.ndarray = np.zeros((2, 65600, 3), np.uint8)
    short = long[:, :8]
    path = tmp_path / 'a.jpg'
    assert name_image(path, short) == path
    assert name_image(path, long) == tmp_path / 'a.jpg.png'
    assert name_image(tmp_path / 'a.webp', long[:, :16384]).name == 'a.webp.png'
    assert name_image(tmp_path / 'a.png', long) == tmp_path / 'a.png'
    for bad, image in ((path, long), (tmp_path / 'a.nothing', short)):
        with (
            pytest.raises(OSError, match='OpenCV writes no .* 2 x') as error,
            open_drawing(bad) as write,
        ):
            write(image)
        assert error.value.filename == str(bad)
    assert not any(tmp_path.iterdir())

    first = write_drawing(tmp_path, 'in/a.jpg', long)
    second = write_drawing(tmp_path, 'in/a.jpg', long)
    assert [first.name, second.name] == ['a.png', 'a_2.png']
    assert cv2.imread(str(second)).shape == long.shape
    found = [
        {'class': 'x', 'box': [0, 0, 65600, 2]},
        {'class': 'x', 'box': [0, 0, 8, 2]},
    ]
    write_crops(tmp_path, 'b', long, found)
    assert {p.name for p in (tmp_path / 'x').iterdir()} == {'b_0.jpg.png', 'b_1.jpg'}
    shot = Shot(path, 'a.jpg', image=long)
    assert shot.drawn == Path('drawn', 'a.jpg.png')
    assert shot._replace(image=short).drawn == Path('drawn', 'a.jpg')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_boxes_are_drawn_on_the_image_that_they_are_of(tmp_path, orientation):
    """As it was turned, or not, when it was loaded; `ori_shape` shows that."""
    path = tmp_path / 'a.jpg'
    as_stored, as_shown = write_turned(path, orientation)
    for image in (as_shown, as_stored) if orientation in SIDEWAYS else (as_shown,):
        one = sample([find_red(image)], [], [], str(path))
        one.set_metainfo(dict(ori_shape=image.shape[:2]))
        assert find_red(read_drawn(one)) == find_red(image)
