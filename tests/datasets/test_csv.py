"""Boxes in CSV files: both dialects, and every fault with its file and line."""

import json
import os
from pathlib import Path

from mmnextvit.datasets import images
from mmnextvit.datasets.csv_boxes import VerifiedCSVMixin
from mmnextvit.datasets.csv_rows import parse_csv
from mmnextvit.datasets.images import BrokenImageError, read_image_size
from mmnextvit.utils.errors import MissingFileError, UserError

import pytest
from mmdet.datasets import BaseDetDataset
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from PIL import Image

from tests.helpers.bad_data import (
    CLASSES,
    LOAD,
    build_dataset,
    list_boxes,
    list_infos,
    measure_truth,
    write_image,
)
from tests.helpers.commands import run_here
from tests.helpers.tiny_run import use_datasets, write_tiny_run
from tests.helpers.yolo_layouts import list_labels, write_text

TENSORFLOW = 'filename,width,height,class,xmin,ymin,xmax,ymax'
RETINANET = 'file,xmin,ymin,xmax,ymax,class'
ROWS = (
    'a.jpg,64,48,cat,4,4,24,24',
    'b (1).JPG,64,48,dog,4,4,24,24.5',
    'a.jpg,64,48,dog,0,0,64,48',
)
PLAIN_ROWS = ('a.jpg,4,4,24,24,cat', 'b (1).JPG,4,4,24,24.5,dog', 'a.jpg,0,0,64,48,dog')
BOXES = [[4, 4, 24, 24], [0, 0, 64, 48], [4, 4, 24, 24.5]]


class Csv:
    """Three images of 64 x 48 pixels, two of them with boxes in ``boxes.csv``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / 'boxes.csv'
        self.images = root / 'images'
        self.images.mkdir()
        for name in ('a.jpg', 'b (1).JPG', 'c.jpg'):
            write_image(self.images / name)

    def write(self, *lines: str, end: str = '\n') -> None:
        write_text(self.file, *lines, end=end)

    def build(
        self, classes: tuple[str, ...] = CLASSES, **kwargs: object
    ) -> BaseDataset:
        cfg = dict(
            type='VerifiedCSVDataset',
            ann_file='boxes.csv',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=classes),
            serialize_data=False,
        )
        return build_dataset(self.root, **(cfg | kwargs))


@pytest.fixture
def table(tmp_path):
    init_default_scope('mmyolo')
    return Csv(tmp_path)


# -------------------------------------------------------------------- what it reads


def swap_columns(lines: tuple[str, ...]) -> list[str]:
    return [','.join(reversed(line.split(','))) for line in lines]


def quote(line: str) -> str:
    return ', '.join(f'"{cell}"' for cell in line.split(','))


TABLES = {
    'TensorFlow': (TENSORFLOW, *ROWS),
    'RetinaNet with a header': (RETINANET, *PLAIN_ROWS),
    'RetinaNet': PLAIN_ROWS,
    'another order': swap_columns((TENSORFLOW, *ROWS)),
    'spaces': [line.replace(',', ' , ') for line in (TENSORFLOW, *ROWS)],
    'quotes': [quote(line) for line in (TENSORFLOW, *ROWS)],
    'semicolons': [line.replace(',', ';') for line in (TENSORFLOW, *ROWS)],
    'tabs': [line.replace(',', '\t') for line in PLAIN_ROWS],
    'upper case': (TENSORFLOW.upper(), *ROWS),
    'byte order': ('\ufeff' + TENSORFLOW, *ROWS),
    'empty lines': ('', TENSORFLOW, '', *ROWS, ',,,,,,,', ''),
    'other names': ('x_min,y_min,x_max,y_max,Label,image path,id', *(
        ','.join([*row.split(',')[1:], row.split(',')[0], '7']) for row in PLAIN_ROWS
    )),
    'more columns': (TENSORFLOW + ',', *(f'{row},' for row in ROWS)),
}  # fmt: skip


@pytest.mark.parametrize('lines', TABLES.values(), ids=TABLES)
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_tables(table, log, lines, end):
    table.write(*lines, end=end)
    dataset = table.build()
    assert list_boxes(dataset) == BOXES
    assert list_labels(dataset) == {'a.jpg': [0, 1], 'b (1).JPG': [1]}
    sizes = {(info['width'], info['height']) for info in list_infos(dataset)}
    assert sizes == {(64, 48)}
    assert not log


def test_images_without_a_box(table, log):
    """Those that an empty row names; c.jpg is named by none before."""
    for rows in ((TENSORFLOW, *ROWS, 'c.jpg,64,48,,,,,'), (*PLAIN_ROWS, 'c.jpg,,,,,')):
        table.write(*rows)
        dataset = table.build()
        assert list_labels(dataset)['c.jpg'] == [] and len(dataset) == 3
    assert len(table.build(filter_cfg=dict(filter_empty_gt=True))) == 2
    table.write('c.jpg,,,,,', *PLAIN_ROWS)  # the first row of a file without a header
    assert len(table.build()) == 3
    assert not log


def test_truth_as_prediction_has_map_1(table):
    table.write(TENSORFLOW, *ROWS)
    dataset = table.build(test_mode=True)
    assert measure_truth(list_infos(dataset), dataset.metainfo)['coco/bbox_mAP'] == 1
    assert dataset[0]['img'].shape == (48, 64, 3)


def test_in_mmdetection_without_mmyolo(table):
    class Plain(VerifiedCSVMixin, BaseDetDataset):
        pass

    table.write(TENSORFLOW, *ROWS)
    plain = Plain(
        data_root=str(table.root),
        ann_file='boxes.csv',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=CLASSES),
        pipeline=LOAD,
    )
    assert list_infos(plain) == list_infos(table.build())


def test_filters_and_batch_shapes(table):
    write_image(table.images / 'c.jpg', 0, (20, 90))
    table.write(*PLAIN_ROWS, 'c.jpg,1,1,9,9,cat')
    shapes = dict(type='BatchShapePolicy', batch_size=2, img_size=64)
    dataset = table.build(test_mode=True, batch_shapes_cfg=shapes)
    assert [Path(info['img_path']).name for info in list_infos(dataset)][0] == 'c.jpg'
    assert all('batch_shape' in info for info in list_infos(dataset))
    assert len(table.build(filter_cfg=dict(min_size=30))) == 2
    with pytest.raises(UserError, match='leaves none of the 3 images'):
        table.build(filter_cfg=dict(min_size=300))


def test_sizes_that_the_file_does_not_say(table):
    """They are those of the loaded image, which EXIF may turn."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (64, 48), 'red').save(table.images / 'c.jpg', exif=exif)
    table.write(
        TENSORFLOW,
        *ROWS[:1],
        'b (1).JPG,0,0,dog,4,4,24,24',
        'c.jpg,,,dog,4,4,24,60',
        'a.jpg,,,dog,1,1,9,9',
    )
    infos = list_infos(table.build())
    assert [(i['width'], i['height']) for i in infos] == [(64, 48), (64, 48), (48, 64)]
    assert [info['size_measured'] for info in infos] == [False, True, True]
    assert infos[2]['instances'][0]['bbox'] == [4, 4, 24, 60]


def test_headers_alone_are_read_and_none_where_sizes_are_stated(table, monkeypatch):
    read = []
    monkeypatch.setattr(
        images,
        'read_image_size',
        lambda path, backend: read.append(path) or read_image_size(path, backend),
    )
    table.write(TENSORFLOW, *ROWS)
    table.build()
    assert not read
    table.write(*PLAIN_ROWS)
    table.build()
    assert sorted(read) == [str(table.images / n) for n in ('a.jpg', 'b (1).JPG')]


@pytest.mark.parametrize(
    'write',
    [
        lambda name, root: f'./images/{name}',
        lambda name, root: f'images\\{name}',
        lambda name, root: f'data/images/{name}',
        lambda name, root: f'../images/{name}',
        lambda name, root: f'{root}/images/{name}',
    ],
)
def test_ways_to_write_paths(table, write):
    table.write(
        *(
            row.replace(row.split(',')[0], write(row.split(',')[0], table.root))
            for row in PLAIN_ROWS
        )
    )
    dataset = table.build(data_prefix=dict(img=''))
    assert list_labels(dataset) == {'a.jpg': [0, 1], 'b (1).JPG': [1]}


def test_names_of_images_and_classes(table, tmp_path):
    names = ['a b, c.jpg', '[x] & y.jpeg', '猫 кот.PNG', 'say "hi".Jpg', 'x;y.jpg']
    for name in names:
        write_image(tmp_path / 'x.jpg')
        (tmp_path / 'x.jpg').rename(table.images / name)
    rows = (
        '"{}",4,4,24,24,"большой, кот"'.format(name.replace('"', '""'))
        for name in names
    )
    table.write(RETINANET, *rows)
    dataset = table.build(classes=('большой, кот',))
    assert list_labels(dataset) == {name: [0] for name in names}


# --------------------------------------------------------------------------- faults


def test_broken_rows(table, log):
    faults = {
        'a.jpg,64,48,cat,x,4,24,24': "xmin: 'x' is no number",
        'a.jpg,64,48,cat,4,4,24,"12,5"': "ymax: '12,5' is no number",
        'a.jpg,64,48,cat,4,,24,24': 'it has no ymin',
        'a.jpg,64,48,,4,4,24,24': 'it has no class',
        'a.jpg,64,48,cat,,,,': 'it has no xmin',
        ',64,48,cat,4,4,24,24': 'it names no image',
        'a.jpg,64,48,cat,4,4,24': '7 columns, but the first row has 8',
        'a, b.jpg,64,48,cat,4,4,24,24': '9 columns, but the first row has 8',
        'a.jpg,wide,48,cat,4,4,24,24': "'wide' is no size",
        'a.jpg,64,-48,cat,4,4,24,24': "'-48' is no size",
        'a.jpg,60,48,cat,4,4,24,24': 'the image is 60 x 48 pixels here, but 64 x 48 in '
        'line 2',
    }
    table.write(TENSORFLOW, *ROWS, *faults)
    with pytest.raises(UserError) as error:
        table.build()
    message = str(error.value)
    assert (error.value.file, error.value.line) == (str(table.file), 5)
    assert f'11 broken lines in {table.file}' in message
    for line, reason in enumerate(faults.values(), start=5):
        assert f'{table.file}:{line}: {reason}' in message
    assert 'skip_broken=True' in message
    with pytest.raises(UserError, match='11 broken lines'):
        table.build(test_mode=True)
    assert list_boxes(table.build(skip_broken=True)) == BOXES
    assert len(log) == 1 and '11 broken lines' in log[0] and 'dropped' in log[0]


def test_bad_boxes(table, log):
    table.write(
        RETINANET,
        *PLAIN_ROWS,
        'a.jpg,24,4,4,24,cat',  # swapped
        'a.jpg,4,4,4,24,cat',
        'a.jpg,70,4,90,24,cat',
        'a.jpg,nan,4,90,24,cat',
        'a.jpg,4,4,inf,24,cat',
        'a.jpg,-9,4,24,60,cat',  # a part lies outside
    )
    dataset = table.build()
    assert list_boxes(dataset) == [*BOXES[:2], [-9, 4, 24, 60], BOXES[2]]
    place = str(table.file)
    assert dataset.box_faults == {
        'of zero or negative size': [f'{place}:5', f'{place}:6'],
        'outside the image': [f'{place}:7'],
        'NaN or infinite': [f'{place}:8', f'{place}:9'],
    }
    (line,) = log
    assert line.startswith(f'{place}: boxes dropped: 2 of zero or negative size (')


def test_repeated_rows(table, log):
    table.write(*PLAIN_ROWS, PLAIN_ROWS[0], 'a.jpg,4.0,4,24,24,cat', 'c.jpg,,,,,')
    dataset = table.build()
    assert list_boxes(dataset) == BOXES and len(dataset) == 3
    assert log == [
        f'{table.file}: 2 repeated rows (dropped): {table.file}:4, {table.file}:5'
    ]


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ([], ': the file is empty: a table of boxes begins with a header such as'),
        (
            ['filename,width,height,class,xmin,ymin,xmax'],
            ':1: the header lacks ymax. It is .*; a table of boxes begins with',
        ),
        (
            ['', 'filename,file_size,region_shape_attributes,class'],
            ':2: the header lacks xmin, ymin, xmax, ymax',
        ),
        (['filename,class,class,xmin,ymin,xmax,ymax'], ':1: .* class twice'),
        (['filename,cat,dog', 'a.jpg,1,0'], ':1: a table of .*here stands .*cat'),
        (['a,b,c,d,e,f'], ':1: a table of .*here stands'),
        (['{"images": []}'], ':1: a table of'),
        ([TENSORFLOW, '"a.jpg,64,48,cat,4,4,24,24'], ':2: the file is no CSV: unexp'),
        ([TENSORFLOW, f'{"x" * 200_000},64,48,cat,4,4,24,24'], ':2: .*field larger'),
        ([TENSORFLOW, 'a\0.jpg,64,48,cat,4,4,24,24'], ': the file is not text'),
        ([TENSORFLOW], ': the file lists no images'),
        (['a.jpg,.1,.2,.5,.6,cat', 'a.jpg,0,0,1,1,dog'], ':1: .*look like fractions'),
    ],
)
def test_what_is_no_table(table, lines, message):
    table.write(*lines)
    with pytest.raises(UserError, match=f'boxes.csv{message}') as error:
        table.build()
    assert error.value.file == str(table.file) and len(str(error.value)) < 1000


def test_a_table_that_is_no_text(table):
    table.file.write_bytes('a.jpg,1,2,3,4,größe'.encode('latin1'))
    with pytest.raises(UserError, match='boxes.csv: the file is not text in UTF-8'):
        table.build()
    table.file.unlink()
    with pytest.raises(MissingFileError, match='boxes.csv: .*does not exist: set ann_'):
        table.build()
    os.mkfifo(table.file)
    with pytest.raises(UserError, match='boxes.csv: this is a FIFO'):
        table.build()


def test_classes_and_names(table, log):
    table.write(*PLAIN_ROWS)
    with pytest.raises(UserError) as error:
        table.build(classes=('cat', 'Dog'))
    message = str(error.value)
    assert "never name the class 'Dog'" in message and 'they name dog (2)' in message
    assert "metainfo=dict(classes=('cat', 'dog')), num_classes=2" in message
    with pytest.raises(UserError, match=r'never name.*write metainfo=dict\(classes='):
        table.build(classes=('bird',))  # though no box is left
    assert not log
    table.build(classes=('cat', 'dog', 'bird'))
    assert len(list_boxes(table.build(classes=('cat',)))) == 1
    assert log == [
        f"{table.file}: no box of the class 'bird'",
        f'{table.file}: boxes whose names are no classes of the config are ignored: '
        'dog (2)',
    ]


@pytest.mark.parametrize('rows', [(TENSORFLOW, *ROWS), PLAIN_ROWS])
def test_missing_images(table, log, rows):
    table.write(*rows)
    (table.images / 'a.jpg').unlink()
    with pytest.raises(MissingFileError, match='1 of the 2 images .*images/a.jpg'):
        table.build()
    assert list_labels(table.build(skip_broken=True)) == {'b (1).JPG': [1]}
    assert len(log) == 1 and 'missing' in log[0]
    with pytest.raises(MissingFileError, match='2 of the 2 images'):
        table.build(data_prefix=dict(img='pictures'), skip_broken=True)


def test_broken_images(table, log):
    (table.images / 'a.jpg').write_text('no image')
    table.write(*PLAIN_ROWS)
    with pytest.raises(BrokenImageError, match='1 of 2 images are broken.*\n.*a.jpg'):
        table.build()
    assert list_labels(table.build(skip_broken=True)) == {'b (1).JPG': [1]}
    assert len(log) == 1 and 'skipped' in log[0]
    table.write(TENSORFLOW, *ROWS)  # says the size, so that loading meets it
    with pytest.raises(BrokenImageError, match='a.jpg'):
        table.build()[0]
    with pytest.raises(BrokenImageError, match='1 of 2 images are broken'):
        table.build(decode_all=True)


def test_listed_images(table, log):
    """What is wrong with others does not concern them."""
    table.write(
        TENSORFLOW, *ROWS, 'c.jpg,64,48,bird,x,4,24,24', 'c.jpg,64,48,bird,4,4,24,24'
    )
    write_text(table.root / 'val.txt', 'images/b (1).JPG')
    classes = ('cat', 'dog', 'bird')
    dataset = table.build(classes, image_list='val.txt', test_mode=True)
    assert list_labels(dataset) == {'b (1).JPG': [1]}
    assert log == [f"{table.file}: no box of the class 'cat', 'bird'"]
    assert len(table.build(('cat', 'bird'), image_list='val.txt', test_mode=True)) == 1
    with pytest.raises(UserError, match="never name the class 'cow'"):
        table.build(('cow',), image_list='val.txt')
    write_text(table.root / 'val.txt', f'{table.images}/c.jpg')
    with pytest.raises(UserError, match='1 broken lines'):
        table.build(classes, image_list='val.txt')
    write_text(table.root / 'val.txt', 'images/a.jpg', 'images/d.jpg')
    with pytest.raises(UserError, match='val.txt:2: images/d.jpg is no image of the'):
        table.build(classes, image_list='val.txt')


def test_many_rows():
    """Of 20,000 images, with lines counted over cells that have lines in them."""
    rows = [f'{i}.jpg,4,4,24,24,cat' for i in range(20_000)]
    content = '\n'.join(['"a\nb.jpg",4,4,24,24,cat', *rows, 'a.jpg,4,4,24,x,cat'])
    parsed = parse_csv(content.encode())
    assert len(parsed.rows) == 20_001
    assert (parsed.rows[0].line, parsed.rows[1].line) == (1, 3)
    assert parsed.broken == [(20_003, "ymax: 'x' is no number", 'a.jpg')]


@pytest.mark.slow
def test_an_epoch_with_validation(tmp_path, capfd):
    config = write_tiny_run(tmp_path)
    data = tmp_path / 'data'
    for split in ('train', 'val'):
        content = json.loads((data / 'annotations' / f'{split}.json').read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        files = {image['id']: image['file_name'] for image in content['images']}
        rows = [
            f'{files[box["image_id"]]},64,64,{names[box["category_id"]]},'
            f'{x},{y},{x + w},{y + h}'
            for box in content['annotations']
            for x, y, w, h in [box['bbox']]
        ]
        write_text(data / f'{split}_labels.csv', TENSORFLOW, *rows)
    use_datasets(
        config,
        "train.update(type='VerifiedCSVDataset', ann_file='train_labels.csv')",
        "val.update(type='VerifiedCSVDataset', ann_file='val_labels.csv')",
    )
    output = run_here('train', config.name, cwd=tmp_path, capfd=capfd)
    assert 'Epoch(train) [1][3/3]' in output and 'coco/bbox_mAP:' in output
    assert 'val_labels.csv: 4 images, ' in output
