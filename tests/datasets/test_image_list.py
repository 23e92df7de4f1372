"""Lists of images: which of a dataset's images are used, whatever its format."""

import os

from mmnextvit.utils.errors import MissingFileError, UserError

import pytest
from mmengine.dataset import ConcatDataset

from tests.helpers.bad_data import list_infos, measure_truth


@pytest.fixture(params=['coco', 'voc', 'yolo'])
def data(request):
    """A data set of each format; its images lie in ``folder`` below the root."""
    made = request.getfixturevalue(request.param)
    folders = dict(coco='images', voc='JPEGImages', yolo='images/train')
    made.folder = folders[request.param]
    return made


def list_names(data) -> list[str]:
    return sorted(os.listdir(data.root / data.folder))


def write_list(data, *lines: str, start: str = '', end: str = '\n') -> str:
    file = data.root.parent / f'{data.root.name}_list.txt'
    file.write_bytes((start + ''.join(f'{line}{end}' for line in lines)).encode())
    return str(file)


def read_names(dataset) -> list[str]:
    return sorted(os.path.basename(info['img_path']) for info in list_infos(dataset))


@pytest.mark.parametrize('test_mode', [False, True])
def test_the_listed_images_are_used_alone(data, log, test_mode):
    """Paths of every spelling and twice, a mark of the byte order, other line ends."""
    first, second, third, *_ = list_names(data)
    lines = (
        f'{data.folder}/{second}',
        f'./{data.folder}//{first}',
        f'{data.root}/x/../{data.folder}/{third}',
        '',
        f' {data.folder}/{second} ',
    )
    file = write_list(data, *lines, start='\ufeff', end='\r\n')
    dataset = data.build(image_list=file, test_mode=test_mode)
    assert read_names(dataset) == [first, second, third]
    assert not log
    assert read_names(data.build()) == list_names(data)


def test_a_list_below_data_root_and_relative_data(data, monkeypatch):
    name = list_names(data)[1]
    (data.root / 'lists').mkdir()
    (data.root / 'lists' / 'val.txt').write_text(f'{data.folder}/{name}')
    monkeypatch.chdir(data.root.parent)
    dataset = data.build(image_list='lists/val.txt', data_root=data.root.name)
    assert read_names(dataset) == [name]
    file = write_list(data, f'{data.root}/{data.folder}/{name}')
    dataset = data.build(image_list=file, data_root=f'./{data.root.name}/')
    assert read_names(dataset) == [name]


def test_lines_that_are_no_image_of_the_dataset(data):
    name = list_names(data)[0]
    file = write_list(data, f'{data.folder}/{name}', '', f'train/{name}', 'b.jpg')
    with pytest.raises(UserError, match=f'_list.txt:3: train/{name} is no') as error:
        data.build(image_list=file)
    assert (error.value.file, error.value.line) == (file, 3)
    assert 'nor are 1 other lines' in str(error.value)
    assert f'The dataset has {data.root}/{data.folder}/{name}' in str(error.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'the list names no image'),
        (b'\xef\xbb\xbf\r\n \r\n', 'the list names no image'),
        (b'\xff\xfe', 'the file is not text in UTF-8'),
        (b'{"images": []}', 'a list of names, one on a line'),
    ],
)
def test_useless_lists(data, content, message):
    (data.root / 'list.txt').write_bytes(content)
    with pytest.raises(UserError, match=f'/list.txt: {message}'):
        data.build(image_list='list.txt')


def test_lists_that_are_no_files(data):
    with pytest.raises(MissingFileError, match='/no.txt: the list of images does not'):
        data.build(image_list='no.txt')
    with pytest.raises(UserError, match=': this is a folder, not a file'):
        data.build(image_list='.')
    with pytest.raises(UserError, match=r"image_list=\['a.jpg'\] is no path"):
        data.build(image_list=['a.jpg'])


def test_images_that_are_not_listed_may_be_missing(data, log):
    first, second, *_ = list_names(data)
    if data.folder == 'images/train':  # its folder is the list of its images
        (data.root / 'all.txt').write_text(f'./{data.folder}/{first}\n./{second}\n')
        data.yaml('train: all.txt\nnames: [cat, dog]\n')
    else:
        (data.root / data.folder / second).unlink()
    file = write_list(data, f'{data.folder}/{first}')
    assert read_names(data.build(image_list=file)) == [first]
    with pytest.raises(MissingFileError, match=second):
        data.build()


def test_boxes_and_classes_of_images_that_are_not_listed(coco, voc, yolo, log):
    """They are neither warned of nor counted, and no error either."""
    coco.add_boxes([5, 5, 0, 8], [5, 5, 8, -3])
    coco.content['annotations'][0]['category_id'] = 9
    (coco.root / 'list.txt').write_text('images/2.jpg\nimages/3.jpg\n')
    assert len(coco.build(image_list='list.txt')) == 2
    voc.write(0, xmin=30)
    voc.write(1, name='bird')
    voc.write(2, name='dog')
    (voc.root / 'Annotations' / '1.xml').write_text('<html/>')
    (voc.root / 'list.txt').write_text('JPEGImages/2.jpg\nJPEGImages/3.jpg\n')
    voc.write(3, name='cat')
    assert len(voc.build(image_list='list.txt')) == 2
    yolo.add(0, '7 nonsense')
    (yolo.root / 'list.txt').write_text('images/train/1.jpg\n')
    assert len(yolo.build(image_list='list.txt')) == 1
    assert not log


def test_what_is_wrong_with_listed_images_is_told(coco, log):
    coco.add_boxes([5, 5, 0, 8])
    coco.paths[1].unlink()
    (coco.root / 'list.txt').write_text('images/0.jpg\nimages/1.jpg\n')
    with pytest.raises(MissingFileError, match='1 of the 2 images .*1.jpg') as error:
        coco.build(image_list='list.txt')
    assert 'image_list' in str(error.value) and 'skip_broken=True' in str(error.value)
    assert len(coco.build(image_list='list.txt', skip_broken=True)) == 1
    assert any('1 of zero or negative size (0.jpg)' in line for line in log)


def test_listed_images_without_a_box(coco):
    coco.content['annotations'] = coco.content['annotations'][:1]
    (coco.root / 'list.txt').write_text('images/2.jpg\n')
    with pytest.raises(UserError, match='no usable box .* in the images of list.txt'):
        coco.build(image_list='list.txt')


def test_the_metric_counts_the_listed_images(data, log):
    first, second, *_ = list_names(data)
    file = write_list(data, *(f'{data.folder}/{name}' for name in (first, second)))
    dataset = data.build(image_list=file, test_mode=True)
    infos = list_infos(dataset)
    assert len(infos) == 2
    assert measure_truth(infos, dataset.metainfo)['coco/bbox_mAP'] == 1
    if data.folder != 'images':
        return
    given = dict(ann_file=f'{data.root}/boxes.json')
    numbers = measure_truth(infos, dataset.metainfo, **given)
    assert numbers['coco/bbox_mAP'] == 1 and not log
    numbers = measure_truth(infos, data.build(test_mode=True).metainfo, **given)
    assert numbers['coco/bbox_mAP'] < 0.5
    assert '6 of the 8 images' in log[0] and 'were not evaluated' in log[0]


def test_a_copy_of_images_of_one_name(coco):
    """COCO data with the same file under two ids: both are used."""
    coco.content['images'].append(dict(coco.content['images'][0], id=99))
    (coco.root / 'list.txt').write_text('images/0.jpg\n')
    dataset = coco.build(image_list='list.txt')
    assert [info['img_id'] for info in list_infos(dataset)] == [0, 99]


def test_two_lists_of_one_folder_are_scanned_once(yolo):
    """Neither takes the place of the other in what is kept for the next start."""
    for name, lines in dict(train=range(6), val=range(6, 8)).items():
        paths = (str(yolo.images[i]) for i in lines)
        (yolo.root / f'my_{name}.txt').write_text('\n'.join(paths))
    for _ in range(2):
        sizes = [len(yolo.build(image_list=f'my_{n}.txt')) for n in ('train', 'val')]
        assert sizes == [6, 2]
        kept = sorted(p.name for p in yolo.cache.parent.glob('*cache.json'))
        assert kept == [
            'train.train.my_train.mmnextvit-cache.json',
            'train.train.my_val.mmnextvit-cache.json',
        ]


def test_a_class_that_only_images_which_are_not_listed_have(voc, log):
    """A split may lack it; a class that no image has is misspelt."""
    voc.write(0, name='bird')
    (voc.root / 'list.txt').write_text('JPEGImages/0.jpg\nJPEGImages/2.jpg\n')
    assert len(voc.build(image_list='list.txt')) == 2
    assert "no box of the class 'dog'" in log[0]
    assert log[1].endswith('are ignored: bird (1)') and len(log) == 2
    with pytest.raises(UserError, match="never name the class 'Dog' of"):
        voc.build(image_list='list.txt', classes=('cat', 'Dog'))


def test_joined_datasets(coco, log):
    """For training as they are; for validation what differs is named."""
    (coco.root / 'list.txt').write_text('images/2.jpg\nimages/3.jpg\n')
    cfg = dict(image_list='list.txt', class_ids=(1, 2))
    joined = ConcatDataset([coco.build(**cfg), coco.build()])
    assert len(joined) == 10
    joined = ConcatDataset(
        [coco.build(**cfg, test_mode=True), coco.build(test_mode=True)],
        ignore_keys=['class_ids', 'image_list'],
    )
    infos = [joined.get_data_info(i) for i in range(10)]
    assert measure_truth(infos, joined.metainfo)['coco/bbox_mAP'] == 1
