"""What ``mmnextvit new`` promises of folders that are not as they should be."""

import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

from mmnextvit.engine.configs import read_config
from mmnextvit.engine.runner import build_dataset
from mmnextvit.folder_import import new, recognition
from mmnextvit.utils import files

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.helpers.bad_data import list_infos, measure_truth
from tests.helpers.commands import call_here, refusal, run_here
from tests.helpers.layouts import (
    LABELIMG,
    ODD,
    PLAIN,
    SPLITS,
    TRUTH,
    build_coco,
    build_csv_with_header,
    build_cvat_coco,
    build_darknet,
    build_label_studio_yolo,
    build_labelimg,
    build_labelimg_beside,
    build_roboflow_coco,
    build_roboflow_yolo,
    build_tensorflow_csv,
    build_ultralytics_yolo,
    build_voc_folders,
    build_vocdevkit,
    write_coco,
    write_image,
)
from tests.helpers.new_configs import list_files, make_config, read, train
from tests.helpers.tool_layouts import build_cvat_xml, build_labelme, build_via_export


def describe(folder: Path, capfd: pytest.CaptureFixture[str], *options: object) -> str:
    """What ``mmnextvit new`` prints of ``folder/data``, as one line."""
    given = ('data', '-o', 'my.py', *options)
    return ' '.join(run_here('new', *given, cwd=folder, capfd=capfd).split())


def refuse(folder: Path, *options: object) -> str:
    """Why it refuses ``folder/data``, of which nothing may be left."""
    before = list_files(folder)
    message = refusal('new', 'data', '-o', 'my.py', *options, cwd=folder)
    assert list_files(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith('.')]
    return message


def remove_half(folder: Path) -> list[Path]:
    """Removes every second image of a folder, the first one included."""
    removed = sorted(folder.rglob('*.jpg'))[::2]
    for path in removed:
        path.unlink()
    return removed


# -------------------------------------------------------------------------- classes


def build_parent(root: Path, parent: str) -> None:
    """Roboflow's COCO, whose first category owns nothing."""
    categories = ((0, parent), (1, 'cat'), (2, 'dog'))
    for split, folder in dict(train='train', val='valid').items():
        for number in SPLITS[split]:
            write_image(root / folder, PLAIN, number)
        file = root / folder / '_annotations.coco.json'
        write_coco(file, PLAIN, SPLITS[split], categories)


@pytest.mark.parametrize('parent', ['animals', 'cat', 'dog'])
def test_a_parent_category_is_left_out(parent, tmp_path, capfd):
    build_parent(tmp_path / 'data', parent)
    printed = describe(tmp_path, capfd)
    assert f"1 of the names own no box and are left out: '{parent}'" in printed
    assert '--all-classes keeps them' in printed
    assert 'ignored' not in printed  # nothing is: each box has its class
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert tuple(cfg.classes) == ('cat', 'dog') and tuple(cfg.class_ids) == (1, 2)
    assert cfg.model.bbox_head.head_module.num_classes == 2
    assert read(cfg, 'train')[1] == dict(cat=5, dog=2)
    assert read(cfg, 'val')[1] == dict(cat=4, dog=1)


def test_the_only_number_that_labels_have(tmp_path, capfd):
    """labelImg's classes.txt with its default names, and one of the user's behind."""
    build_labelimg_beside(tmp_path / 'data')
    folder = tmp_path / 'data'
    (folder / 'classes.txt').write_text('\n'.join((*LABELIMG, 'weed')))
    for path in folder.glob('0*.txt'):
        path.write_text(re.sub(r'^\d+', '15', path.read_text(), flags=re.M))
    assert '15 of the names own no box' in describe(tmp_path, capfd)
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert tuple(cfg.classes) == ('weed',) and tuple(cfg.class_ids) == (15,)
    assert (read(cfg, 'train')[1] + read(cfg, 'val')[1]) == dict(weed=15)
    dataset = build_dataset(cfg, 'train')
    labels = {box['bbox_label'] for i in list_infos(dataset) for box in i['instances']}
    assert labels == {0}


@pytest.mark.parametrize('build', [build_roboflow_coco, build_labelimg])
def test_labels_are_the_same_in_training_metric_and_results(build, tmp_path):
    """Both have two classes of one name, of which the second owns the boxes."""
    build(tmp_path / 'data')
    cfg = make_config(tmp_path)
    of_training = build_dataset(cfg, 'train').metainfo['classes']
    dataset = build_dataset(cfg, 'val')
    assert of_training == dataset.metainfo['classes'] == ('cat', 'dog')
    infos = list_infos(dataset)
    given = dict(cfg.val_evaluator, classwise=True, outfile_prefix=f'{tmp_path}/saved')
    numbers = measure_truth(infos, dataset.metainfo, **given)
    assert numbers['coco/cat_precision'] == numbers['coco/dog_precision'] == 1
    saved = json.loads((tmp_path / 'saved.bbox.json').read_text())
    truth = [box['bbox_label'] for info in infos for box in info['instances']]
    assert [entry['category_id'] for entry in saved] == truth and {*truth} == {0, 1}


@pytest.mark.slow
def test_trains_without_a_parent_of_the_same_name(tmp_path):
    build_parent(tmp_path / 'data', 'cat')
    make_config(tmp_path, '--imgsz', 64)
    train(tmp_path / 'my.py')


def test_all_classes(tmp_path):
    build_parent(tmp_path / 'data', 'animals')
    cfg = make_config(tmp_path, '--all-classes')
    assert tuple(cfg.classes) == ('animals', 'cat', 'dog')
    assert tuple(cfg.class_ids) == (0, 1, 2)
    assert read(cfg, 'train')[1] == dict(cat=5, dog=2)


@pytest.mark.parametrize('build', [build_roboflow_coco, build_labelimg])
def test_all_classes_where_two_have_one_name(build, tmp_path):
    build(tmp_path / 'data')
    message = refuse(tmp_path, '--all-classes')
    assert "'cat'" in message and '--all-classes' in message


def test_two_classes_of_one_name_that_both_own_boxes(tmp_path):
    build_labelimg(tmp_path / 'data')
    path = tmp_path / 'data' / 'labels' / '000001.txt'
    path.write_text(path.read_text().replace('15 ', '2 '))  # the first cat
    assert "several classes have the name 'cat'" in refuse(tmp_path)


def test_no_box_at_all(tmp_path):
    build_labelimg_beside(tmp_path / 'data')
    for path in (tmp_path / 'data').glob('0*.txt'):
        path.write_text('')
    assert 'nothing to train on' in refuse(tmp_path)


# --------------------------------------------------------------------------- splits


def test_the_same_folder_as_train_and_val(tmp_path, capfd):
    build_ultralytics_yolo(tmp_path / 'data')
    path = tmp_path / 'data' / 'data.yaml'
    path.write_text(path.read_text().replace('val: images/val', 'val: images/train'))
    printed = describe(tmp_path, capfd)
    assert 'the same images as train and val, which counts as no val split' in printed
    assert 'no images are set aside for validation: 1 of 4 are now' in printed
    cfg = Config.fromfile(tmp_path / 'my.py')
    train_images, val_images = (read(cfg, split)[0] for split in ('train', 'val'))
    assert sorted(train_images + val_images) == sorted(PLAIN[:4])
    assert (len(train_images), len(val_images), cfg.num_images) == (3, 1, 3)


def test_a_split_that_is_named_but_not_there(tmp_path, capfd):
    build_roboflow_yolo(tmp_path / 'data')
    shutil.rmtree(tmp_path / 'data' / 'valid')
    printed = describe(tmp_path, capfd)
    assert 'names ../valid/images as val, which is not there: left out' in printed
    cfg = Config.fromfile(tmp_path / 'my.py')
    sizes = [len(read(cfg, split)[0]) for split in ('train', 'val', 'test')]
    assert sizes == [3, 1, 2]


def test_two_readings(tmp_path, capfd):
    """Of the same boxes one is taken; where they differ, it says how and stops."""
    build_coco(tmp_path / 'data')
    for split in ('train', 'val'):
        for path in (tmp_path / 'data' / f'{split}2017').iterdir():
            folder = tmp_path / 'data' / 'images' / split
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    build_ultralytics_yolo(tmp_path / 'data')
    printed = describe(tmp_path, capfd)
    assert 'the same boxes stand there as Ultralytics YOLO' in printed
    assert 'which is not used' in printed
    (tmp_path / 'my.py').unlink()
    label_file = tmp_path / 'data' / 'labels' / 'train' / '000002.txt'
    label_file.write_text(''.join(label_file.read_text().splitlines(True)[1:]))
    message = refuse(tmp_path)
    assert 'read in two ways, and they differ' in message and '000002.jpg' in message
    call_here('new', 'data/data.yaml', '-o', 'my.py', cwd=tmp_path)  # the way out
    assert len(read(Config.fromfile(tmp_path / 'my.py'), 'train')[0]) == 4


def copy_nearly(path: Path, name: str) -> None:
    """The same image, a little brighter, with the same labels."""
    image = cv2.convertScaleAbs(cv2.imread(str(path)), beta=3)
    cv2.imwrite(str(path.with_name(name)), image)
    labels = path.with_suffix('.txt')
    shutil.copy(labels, labels.with_name(name).with_suffix('.txt'))


def read_lists(folder: Path, stem: str = 'my') -> dict[str, list[str]]:
    return {
        split: (folder / f'{stem}_{split}.txt').read_text('utf-8').splitlines()
        for split in ('train', 'val')
    }


def test_a_made_split_is_the_same_again_and_elsewhere(tmp_path):
    for place in ('a', 'b/c d'):
        folder = tmp_path / place
        build_labelimg_beside(folder / 'data')
        for number in range(8):
            for copy in 'xyz':
                path = folder / 'data' / PLAIN[number]
                copy_nearly(path, f'{copy}{number}.jpg')
        before = list_files(folder / 'data')
        make_config(folder)
        call_here('new', 'data', '-o', 'again.py', cwd=folder)
        assert list_files(folder / 'data') == before
        assert read_lists(folder) == read_lists(folder, 'again')
    lists = read_lists(folder)
    assert lists == read_lists(tmp_path / 'a')
    assert len(lists['train'] + lists['val']) == 32
    sides = {name: side for side, names in lists.items() for name in names}
    for number in range(8):
        names = [PLAIN[number], *(f'{copy}{number}.jpg' for copy in 'xyz')]
        assert len({sides[name] for name in names}) == 1


# ------------------------------------------------------------------ what is printed


def test_what_it_found_is_printed(tmp_path, capfd):
    expected = build_roboflow_yolo(tmp_path / 'data')
    printed = describe(tmp_path, capfd, '--imgsz', 640)
    assert 'Roboflow YOLO' in printed
    counts = {split: expected.count_boxes(split) for split in SPLITS}
    for split, numbers in SPLITS.items():
        total = counts[split].total()
        assert f'{split} {len(numbers)} images {total} boxes 0 without a box' in printed
    assert 'boxes of train val test' in printed
    for name in ('cat', 'dog'):
        row = ' '.join(str(counts[split][name]) for split in SPLITS)
        assert f'{name} {row}' in printed
    widths, heights = zip(*(drawn.size for drawn in TRUTH))
    assert (
        f'images {min(widths)} to {max(widths)} pixels wide and {min(heights)} to '
        f'{max(heights)} high'
    ) in printed
    sides = sorted(
        side * 640 / max(drawn.size)
        for drawn in TRUTH
        for _, (x1, y1, x2, y2) in drawn.boxes
        for side in (x2 - x1, y2 - y1)
    )
    found = re.search(
        r'nine of ten box sides have (\d+) to (\d+) pixels at 640', printed
    )
    low, high = map(int, found.groups())
    assert sides[0] <= low <= sides[3] and sides[-4] <= high <= sides[-1] + 1
    assert 'my.py: yolov5_nextvit_s_smalldata, 640 pixels, 300 epochs' in printed
    assert 'mmnextvit check my.py' in printed and 'mmnextvit train my.py' in printed


# ------------------------------------------------------------------- missing images

# Of each layout: how many images of training are missing and left.
HALVES = {
    build_coco: (2, dict(train=2, val=1)),
    build_voc_folders: (4, dict(train=3, val=1)),
    build_tensorflow_csv: (2, dict(train=1, val=1, test=1)),
    build_darknet: (2, dict(train=2, val=1)),
    build_roboflow_yolo: (2, dict(train=2, val=1, test=1)),
    build_labelimg: (4, dict(train=3, val=1)),
    build_cvat_xml: (4, dict(train=3, val=1)),
    build_labelme: (4, dict(train=3, val=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize('build', HALVES)
def test_half_of_the_images_are_missing(build, tmp_path, capfd):
    build(tmp_path / 'data')
    first, *_ = [path.stem for path in remove_half(tmp_path / 'data')]
    count, left = HALVES[build]
    message = refuse(tmp_path)
    assert f'{count} ' in message and first in message
    assert str(tmp_path / 'data') in message  # where it looked
    assert 'new --skip-missing goes on without these images' in message
    printed = describe(tmp_path, capfd, '--skip-missing')
    assert re.search(r'\d left out, since images are (missing|broken): /', printed)
    assert 'Set data_prefix' not in printed
    cfg = Config.fromfile(tmp_path / 'my.py')
    for split, number in left.items():
        lines = (tmp_path / f'my_{split}.txt').read_text().splitlines()
        assert len(read(cfg, split)[0]) == len(lines) == number
    assert cfg.num_images == left['train']


@pytest.mark.slow
@pytest.mark.parametrize('build', [build_coco, build_cvat_xml])
def test_trains_without_the_missing_images(build, tmp_path):
    build(tmp_path / 'data')
    remove_half(tmp_path / 'data')
    make_config(tmp_path, '--skip-missing', '--imgsz', 64)
    train(tmp_path / 'my.py')


def test_images_elsewhere_in_the_folder(tmp_path):
    build_coco(tmp_path / 'data')
    (tmp_path / 'data' / 'raw' / 'all pictures').mkdir(parents=True)
    for path in (tmp_path / 'data').rglob('*.jpg'):
        path.rename(tmp_path / 'data' / 'raw' / 'all pictures' / path.name)
    cfg = make_config(tmp_path)
    assert [len(read(cfg, split)[0]) for split in ('train', 'val')] == [4, 2]


def test_images_in_an_archive(tmp_path):
    build_coco(tmp_path / 'data')
    with zipfile.ZipFile(tmp_path / 'data' / 'images.zip', 'w') as archive:
        for path in sorted((tmp_path / 'data').rglob('*.jpg')):
            archive.write(path, path.name)
            path.unlink()
    message = refuse(tmp_path)
    assert '4 of the 4 images' in message
    assert 'They may be in images.zip: unpack it' in message
    assert 'no image to train on' in refuse(tmp_path, '--skip-missing')


def test_no_image_of_a_split_is_left(tmp_path, capfd):
    build_coco(tmp_path / 'data')
    shutil.rmtree(tmp_path / 'data' / 'val2017')
    assert '2 of the 2 images' in refuse(tmp_path)
    printed = describe(tmp_path, capfd, '--skip-missing')
    assert 'no image of val is there: left out' in printed
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert [len(read(cfg, split)[0]) for split in ('train', 'val')] == [3, 1]


# ------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    'name', ['my.py', 'my_train.txt', 'my_val.txt', 'my_train.json', 'my_test.json']
)
def test_what_is_there_is_refused_before_any_work(name, tmp_path, monkeypatch):
    build_cvat_xml(tmp_path / 'data')
    (tmp_path / name).write_text('mine')
    monkeypatch.setattr(recognition, 'read_tree', None)  # before any long work
    message = refuse(tmp_path)
    assert f'{name} exists, and nothing is overwritten' in message


@pytest.mark.slow
@pytest.mark.parametrize('interrupt', [KeyboardInterrupt, OSError])
@pytest.mark.parametrize('step', ['split_samples', 'choose', 'format_text', 'publish'])
@pytest.mark.parametrize('build', [build_cvat_xml, build_labelimg])
def test_all_is_written_or_nothing(build, step, interrupt, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise interrupt('now')

    build(tmp_path / 'data')
    before = list_files(tmp_path)
    if step == 'publish':
        # The last of the files cannot get its name.
        claim = files._claim

        def fail_at_last(written, target):
            if target.name == 'my_val.txt' and target.parent == tmp_path:
                fail()
            claim(written, target)

        monkeypatch.setattr(files, '_claim', fail_at_last)
    else:
        monkeypatch.setattr(new, step, fail)
    with pytest.raises(interrupt):
        make_config(tmp_path)
    assert list_files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    monkeypatch.undo()
    make_config(tmp_path)  # nothing stands in the way of the next time
    expected = {'data', 'my.py', 'my_train.txt', 'my_val.txt'}
    expected |= {'my_train.json'} if build is build_cvat_xml else set()
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_converted_annotations_lie_beside_the_config(tmp_path, capfd):
    build_via_export(tmp_path / 'data')
    (tmp_path / 'link').symlink_to(tmp_path / 'configs')
    (tmp_path / 'configs').mkdir()
    run_here('new', 'data', '-o', 'link/../link/my.py', cwd=tmp_path, capfd=capfd)
    written = sorted(path.name for path in (tmp_path / 'configs').iterdir())
    assert written == ['my.py', 'my_train.json', 'my_val.json']
    (tmp_path / 'configs').rename(tmp_path / 'moved')  # its files come along
    (tmp_path / 'link').unlink()
    cfg = Config.fromfile(tmp_path / 'moved' / 'my.py')
    assert [len(read(cfg, split)[0]) for split in ('train', 'val')] == [4, 2]


# ----------------------------------------------------------------- one-line changes


def resolve_numbers(cfg: Config) -> dict[str, object]:
    """Where settings arrive, far from where they are written."""
    head = cfg.model.bbox_head
    return dict(
        sizes=[cfg.train_dataloader.dataset.pipeline[i].scale[0] for i in (2, 3)],
        shapes=cfg.val_dataloader.dataset.batch_shapes_cfg.img_size,
        epochs=(cfg.train_cfg.max_epochs, cfg.default_hooks.param_scheduler.max_epochs),
        warm_up=cfg.default_hooks.param_scheduler.warmup_epochs,
        batch=cfg.train_dataloader.batch_size,
        classes=head.head_module.num_classes,
        cls=round(head.loss_cls.loss_weight, 6),
        obj=round(head.loss_obj.loss_weight, 6),
        names=tuple(cfg.val_dataloader.dataset.metainfo.classes),
        ids=tuple(cfg.train_dataloader.dataset.class_ids),
    )


WRITTEN = dict(
    sizes=[320, 320], shapes=320, epochs=(300, 300), warm_up=2, batch=8,
    classes=2, cls=0.5 * 2 / 80, obj=(320 / 640) ** 2, names=('cat', 'dog'), ids=(1, 2),
)  # fmt: skip
CHANGES = [
    ('image_size', 416, dict(sizes=[416, 416], shapes=416, obj=0.4225)),
    ('max_epochs', 10, dict(epochs=(10, 10), warm_up=1)),
    ('batch_size', 2, dict(batch=2)),
    ('classes', ('dog',), dict(classes=1, cls=0.00625, names=('dog',), ids=(2,))),
]


@pytest.mark.slow
@pytest.mark.parametrize('key, value, follows', CHANGES)
def test_one_line_changes_all_that_follows(key, value, follows, tmp_path):
    build_coco(tmp_path / 'data')
    assert resolve_numbers(make_config(tmp_path)) == WRITTEN
    path = tmp_path / 'my.py'
    by_option = read_config(str(path), {key: value})
    text = path.read_text('utf-8')
    text, count = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', text, flags=re.M)
    assert count == 1
    path.write_text(text, 'utf-8')
    assert resolve_numbers(Config.fromfile(path)) == {**WRITTEN, **follows}
    assert resolve_numbers(by_option) == {**WRITTEN, **follows}


# ----------------------------------------------------------------- names and places

PLACES = ["it's [1] (x)", 'кошка 猫 é', 'a"b', '{{ x }}', 'two  words ', '50%', 'a\\b']


@pytest.mark.slow
@pytest.mark.parametrize('place', PLACES)
def test_folders_of_any_name(place, tmp_path):
    """Of the data and of the config, whose lists stand beside it."""
    folder = tmp_path / place
    build_labelimg(folder / 'data', ODD)
    cfg = make_config(folder)
    names = [name for split in ('train', 'val') for name in read(cfg, split)[0]]
    assert sorted(names) == sorted(ODD)
    shutil.move(folder / 'data', folder / place)
    call_here('new', place, '-o', 'other.py', cwd=folder)
    assert len(read(Config.fromfile(folder / 'other.py'), 'train')[0]) == 6


def test_classes_of_any_name(tmp_path, capfd):
    names = ('it\'s "a" [cat], {{ x }}', 'кошка 猫')
    build_coco(tmp_path / 'data')
    for path in (tmp_path / 'data' / 'annotations').iterdir():
        content = json.loads(path.read_text())
        for category, name in zip(content['categories'], names):
            category['name'] = name
        path.write_text(json.dumps(content))
    assert all(name in describe(tmp_path, capfd) for name in names[:1])
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert tuple(cfg.classes) == names
    assert read(cfg, 'train')[1] == dict(zip(names, (5, 2)))


@pytest.mark.slow
def test_ways_to_name_the_folder(tmp_path):
    folder = tmp_path / 'Blood cells'
    build_labelimg_beside(folder)
    (tmp_path / 'link').symlink_to(folder)
    (tmp_path / 'configs').mkdir()
    ways = [
        (tmp_path, 'Blood cells'),
        (tmp_path, 'Blood cells/'),
        (tmp_path, folder),
        (tmp_path, 'link'),
        (tmp_path, 'Blood cells/classes.txt'),
        (tmp_path / 'configs', '../Blood cells'),
        (folder, '.'),
    ]
    splits = []
    for number, (here, way) in enumerate(ways):
        out = tmp_path / 'configs' / f'new_{number}.py'
        call_here('new', way, '-o', out, cwd=here)
        cfg = Config.fromfile(out)
        splits.append([read(cfg, split) for split in ('train', 'val')])
    assert all(split == splits[0] for split in splits)
    assert len(splits[0][0][0] + splits[0][1][0]) == 8


@pytest.mark.parametrize(
    'build, file',
    [
        (build_labelimg, 'labels/classes.txt'),
        (build_cvat_coco, 'annotations/inst*.json'),
    ],
)
def test_a_file_in_a_folder_of_the_data(build, file, tmp_path):
    """Its split is that of the folder, with paths from there."""
    build(tmp_path / 'data')
    make_config(tmp_path)
    (path,) = (tmp_path / 'data').glob(file)
    call_here('new', path, '-o', 'file.py', cwd=tmp_path)
    assert read_lists(tmp_path) == read_lists(tmp_path, 'file')
    assert all(name.startswith('images/') for name in read_lists(tmp_path)['train'])
    assert len(read(Config.fromfile(tmp_path / 'file.py'), 'val')[0]) == 2


@pytest.mark.parametrize('options', [(), ('--skip-missing',)])
def test_lists_of_a_folder_in_the_folder(options, tmp_path):
    """VOCdevkit/VOC2012, whose lists name no images for validation or missing ones."""
    build_vocdevkit(tmp_path / 'data')
    root = tmp_path / 'data' / 'VOCdevkit' / 'VOC2012'
    if options:
        remove_half(tmp_path / 'data')
    else:
        for split in ('val', 'trainval'):
            (root / 'ImageSets' / 'Main' / f'{split}.txt').unlink()
    cfg = make_config(tmp_path, *options)
    sizes = [len(read(cfg, split)[0]) for split in ('train', 'val', 'test')]
    assert sizes == ([2, 1, 1] if options else [3, 1, 2])


def test_inside_the_folder_and_again(tmp_path):
    """What it has written there is no data of the user's the next time."""
    for build in (build_labelimg_beside, build_voc_folders, build_csv_with_header):
        folder = tmp_path / build.__name__
        build(folder)
        call_here('new', '.', '-o', 'one.py', cwd=folder)
        call_here('new', '.', '-o', 'two.py', cwd=folder)
        assert read_lists(folder, 'one') == read_lists(folder, 'two')
        texts = [(folder / f'{name}.py').read_text('utf-8') for name in ('one', 'two')]
        assert texts[0].replace('one_', 'two_') == texts[1]


def test_the_name_of_the_config(tmp_path, capfd):
    build_labelimg_beside(tmp_path / 'Blood cells (2)')
    run_here('new', 'Blood cells (2)', cwd=tmp_path, capfd=capfd)
    assert (tmp_path / 'blood_cells_2.py').is_file()
    assert 'exists' in refusal('new', 'Blood cells (2)', cwd=tmp_path)


def test_data_beside_which_nothing_can_be_written(tmp_path, capfd):
    """A scan that cannot be kept, as on a read-only disk, is no reason to stop."""
    build_label_studio_yolo(tmp_path / 'data')
    # The tests may run as root, who may write anywhere but over a folder.
    (tmp_path / 'data' / 'images.train.mmnextvit-cache.json' / 'x').mkdir(parents=True)
    assert 'The scan is not kept' in describe(tmp_path, capfd)
    assert len(read(Config.fromfile(tmp_path / 'my.py'), 'train')[0]) == 6


# ------------------------------------------------------------------ model and weights


@pytest.mark.slow
@pytest.mark.parametrize('model', ['s', 'b', 'l', 'timm:resnet18', 'yolov8', 'rtmdet'])
def test_each_model_is_built(model, tmp_path):
    build_coco(tmp_path / 'data')
    cfg = make_config(tmp_path, '--model', model)
    init_default_scope('mmyolo')
    with torch.device('meta'):
        detector = MODELS.build(cfg.model)
    archs = dict(s='small', b='base', l='large')
    if model in archs:
        assert cfg.model.backbone.get('arch', 'small') == archs[model]
    if model.startswith('timm:'):
        assert detector.backbone.model_name == model.removeprefix('timm:')
    assert detector.bbox_head.num_classes == 2
    assert cfg.get('load_from') is None


def test_weights_of_a_backbone_and_of_a_detector(tmp_path):
    build_coco(tmp_path / 'data')
    weights = {'stem.0.weight': torch.zeros(1), 'norm.bias': torch.zeros(1)}
    torch.save(weights, tmp_path / 'backbone.pth')
    cfg = make_config(tmp_path, '--weights', 'backbone.pth')
    assert cfg.load_from is None
    assert cfg.model.backbone.init_cfg.checkpoint == str(tmp_path / 'backbone.pth')
    weights['bbox_head.head_module.convs_pred.0.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=weights), tmp_path / 'detector.pth')
    call_here('new', 'data', '-o', 'b.py', '--weights', 'detector.pth', cwd=tmp_path)
    cfg = Config.fromfile(tmp_path / 'b.py')
    assert cfg.load_from == str(tmp_path / 'detector.pth')
    assert cfg.model.backbone.get('init_cfg') is None


@pytest.mark.slow
def test_what_weights_say_of_themselves_is_followed(tmp_path):
    """The official Mask R-CNN, a file of YOLOv5's, a detector with ImageNet's mean."""
    build_coco(tmp_path / 'data')
    one = torch.zeros(1)
    official = {'backbone.features.0.norm.bias': one, 'roi_head.bbox_head.fc_cls': one}
    ours = {'backbone.norm.weight': one, 'bbox_head.head_module.x.weight': one}
    inside = dict(type='mmdet.NextViT', norm_cfg=dict(type='BN', eps=1e-5))
    colours = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    model = dict(backbone=inside, data_preprocessor=colours)
    text = Config(dict(model=model)).pretty_text
    files = {
        'official': dict(meta={}, state_dict=official),
        'ours': dict(meta=dict(cfg=text), state_dict=ours),
        'yolov5': {'model.0.stem.0.conv.weight': one, 'model.16.m.0.weight': one},
    }
    made = {}
    for name, content in files.items():
        torch.save(content, tmp_path / f'{name}.pth')
        options = '-o', f'{name}.py', '--weights', f'{name}.pth'
        call_here('new', 'data', *options, cwd=tmp_path)
        made[name] = Config.fromfile(tmp_path / f'{name}.py')
    for name in ('ours', 'yolov5'):
        assert made[name].load_from == str(tmp_path / f'{name}.pth')
        assert made[name].tuning == made[name].detector.tuning
    backbone = made['official'].model.backbone
    assert made['official'].load_from is None
    assert backbone.init_cfg.checkpoint == str(tmp_path / 'official.pth')
    assert backbone.final_norm is False
    preprocessor = made['ours'].model.data_preprocessor
    assert {key: preprocessor[key] for key in colours} == colours
    assert made['ours'].model.backbone.norm_cfg.eps == 1e-5
    assert made['yolov5'].model.data_preprocessor.std == [255.0] * 3
    assert made['yolov5'].model.backbone.norm_cfg.eps == 1e-3


def save_text(path: Path) -> None:
    path.write_text('not found')


def save_list(path: Path) -> None:
    torch.save([1, 2], path)


def save_numbers(path: Path) -> None:
    torch.save(dict(epoch=1), path)


def save_nothing(path: Path) -> None:
    torch.save({}, path)


@pytest.mark.parametrize(
    'save, message',
    [
        (None, r'--weights w.pth does not exist'),
        (os.mkdir, r'--weights w.pth is a folder'),
        (save_text, r'w.pth: the file is a text file, not a checkpoint'),
        (save_list, r'w.pth: the file holds a list'),
        (save_numbers, r'w.pth: the file holds no weights'),
        (save_nothing, r'w.pth: the file holds no weights'),
    ],
)
def test_weights_that_are_none(save, message, tmp_path, monkeypatch):
    build_labelimg(tmp_path / 'data')
    if save:
        save(tmp_path / 'w.pth')
    monkeypatch.setattr(recognition, 'read_tree', None)  # before any long work
    assert re.search(message, refuse(tmp_path, '--weights', 'w.pth'))


@pytest.mark.parametrize(
    'options, message',
    [
        (('--model', 'yolov9'), "--model 'yolov9': did you mean yolov8?"),
        (('--model', 'rtmdt'), 'did you mean rtmdet?'),
        (('--model', 'x'), 'there are s, b, l, timm:NAME, yolov8, rtmdet'),
        (('--model', 'timm:resnet1'), "timm has no model 'resnet1': did you mean resn"),
        (
            ('--weights', 'timm://resnet1'),
            "--weights: timm has no model 'resnet1':",
        ),
        (('--model', 'timm:'), 'did you mean timm:NAME?'),
        (('--imgsz', '333'), '--imgsz: 333 must be a multiple of 32'),
        (('--imgsz', '0'), '--imgsz: 0 must be a multiple of 32'),
        (('--imgsz', '-32'), '--imgsz: -32 must be a multiple of 32'),
    ],
)
def test_wrong_choices(options, message, tmp_path, monkeypatch):
    build_labelimg(tmp_path / 'data')
    monkeypatch.setattr(recognition, 'read_tree', None)  # before any long work
    assert message in refuse(tmp_path, *options)


# ----------------------------------------------------------------------------- huge


def build_huge(root: Path, count: int) -> None:
    """COCO of many images, all links to a few files that are different."""
    (root / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        if number % 20_000 == 0:
            image = rng.integers(0, 256, (32, 32, 3), np.uint8)
            cv2.imwrite(str(root / 'images' / f'{number}.png'), image)
        else:
            first = root / 'images' / f'{number // 20_000 * 20_000}.png'
            os.link(first, root / 'images' / f'{number}.png')
    for split, half in (('train', range(0, count, 2)), ('val', range(1, count, 2))):
        content = dict(
            categories=[dict(id=1, name='cat')],
            images=[
                dict(id=n, file_name=f'{n}.png', width=32, height=32) for n in half
            ],
            annotations=[
                dict(
                    id=n, image_id=n, category_id=1, bbox=[1, 1, 9, 9], area=81,
                    iscrowd=0,
                )
                for n in half
            ],
        )  # fmt: skip
        path = root / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


@pytest.mark.slow
def test_a_hundred_thousand_images(tmp_path, capfd):
    """Progress is shown, and the time by image is that of 10,000, or about so."""
    seconds = {}
    for count in (10_000, 100_000):
        folder = tmp_path / str(count)
        build_huge(folder / 'data', count)
        start = time.process_time()
        printed = describe(folder, capfd)
        seconds[count] = time.process_time() - start
        assert f'train {count // 2:,} images' in printed
        assert 'Looking through' in printed
    assert seconds[100_000] < 2 * 10 * seconds[10_000] + 5
