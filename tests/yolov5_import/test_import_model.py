"""From YOLOv5's files to a config that trains: whole, or with file, line and row."""

import errno
import json
from pathlib import Path

from mmnextvit.cli import call
from mmnextvit.datasets.data_yaml import find_sources
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.runner import build_dataset, load_detector
from mmnextvit.utils.errors import MissingFileError, UserError
from mmnextvit.utils.yaml_reader import read_yaml
from mmnextvit.yolov5_import.import_model import build, order_anchors
from mmnextvit.yolov5_import.model_yaml import read_model

import pytest
import torch
import yaml
from mmengine.config import Config

from tests.helpers.commands import run_here
from tests.helpers.full_disk import limit_file_size
from tests.helpers.small_yolov5 import small_yolov5
from tests.helpers.tiny_run import run_tool
from tests.helpers.yolov5_data import write_yolo_data
from tests.helpers.yolov5_detectors import import_content, module_names, yolov5_names
from tests.helpers.yolov5_models import document_model, write_yaml, yolov5_model
from tests.helpers.yolov5_pickle import write_yolov5_checkpoint


@pytest.fixture(scope='module')
def yolo_data(tmp_path_factory):
    """Twelve drawn images in YOLO's txt format."""
    return write_yolo_data(tmp_path_factory.mktemp('yolo'))


@pytest.mark.slow
def test_pretrained_weights_bring_their_mean_and_std(tmp_path):
    write_yaml(tmp_path / 'm.yaml', document_model('resnet18', True))
    call('import_yolov5', tmp_path / 'm.yaml', '-o', tmp_path / 'x.py')
    model = Config.fromfile(tmp_path / 'x.py').model
    assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert model.backbone.init_cfg.checkpoint == 'timm://resnet18'


@pytest.mark.slow
@pytest.mark.parametrize('head', ['Detect', 'Segment'])
def test_weights_are_converted_beside_the_config(head, tmp_path, lively, capsys):
    """Anchors, classes and every tensor of a .pt; the same maps come out."""
    args = ['nc', 'anchors', 32, 256][: 4 if head == 'Segment' else 2]
    content = yolov5_model('n', head=(head, args), nc=3)
    _, _, trained = import_content(tmp_path, content)
    lively(trained).half().float()  # what the file can hold
    anchors = [[(3, 5), (7, 9), (11, 10)], [(20, 21), (30, 31), (40, 41)],
               [(50, 51), (60, 61), (70, 71)]]  # fmt: skip
    kinds = ['Detect' if k == 'Segment' else k for k in module_names(content)]
    write_yolov5_checkpoint(
        tmp_path / 'best.pt', yolov5_names(trained.state_dict(), 24), kinds,
        anchors=anchors, names=['cat', 'dog', 'cow'],
    )  # fmt: skip
    file = tmp_path / 'model.yaml'
    out = tmp_path / 'new' / 'mine.py'
    argv = ['import_yolov5', file, '-o', out, '--weights', tmp_path / 'best.pt']
    with limit_file_size(100_000), pytest.raises(OSError) as error:
        call(*argv)
    assert error.value.errno == errno.EFBIG
    assert Path(error.value.filename).parent == out.parent
    assert not out.parent.exists()
    capsys.readouterr()
    call(*argv)
    printed = capsys.readouterr().out
    total = len([n for n in trained.state_dict() if not n.endswith('tracked')])
    assert f"{total} of the model's {total} tensors fit" in printed
    assert len(out.read_text().splitlines()) <= 80

    cfg = read_config(str(out))
    saved = torch.load(cfg.load_from, weights_only=True)
    assert saved['meta']['dataset_meta']['classes'] == ['cat', 'dog', 'cow']
    _, detector = build(out.read_text())
    detector.load_state_dict(saved['state_dict'])
    trained.eval(), detector.eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(trained._forward(x), detector._forward(x)):
            pairs = [(a, b)] if isinstance(a, torch.Tensor) else zip(a, b)
            assert all(torch.equal(m, n) for m, n in pairs)
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [[tuple(pair) for pair in level] for level in sizes] == anchors
    with pytest.raises(UserError, match='mine.py exists'):
        call('import_yolov5', file, '-o', out)


def write_trained(path, content, names, state=None, **options):
    """A trained ``.pt`` of a YAML's content, with its YAML inside; its state."""
    if state is None:
        _, _, trained = import_content(path.parent, content)
        state = yolov5_names(trained.state_dict(), 24)
    kinds = module_names(content)
    write_yolov5_checkpoint(path, state, kinds, names=names, yaml=content, **options)
    return state


@pytest.mark.slow
def test_a_pt_alone_suffices(tmp_path, capsys):
    """And wins over a stock YAML: classes, anchors, image size, hyperparameters."""
    trained = yolov5_model('n', nc=1)
    anchors = [[(3, 5), (7, 9), (11, 10)], [(20, 21), (30, 31), (40, 41)],
               [(50, 51), (60, 61), (70, 71)]]  # fmt: skip
    opt = dict(imgsz=416, hyp={'lr0': 0.02, 'giou': 0.04})
    weights = tmp_path / 'best.pt'
    write_trained(weights, trained, ['helmet'], anchors=anchors, opt=opt)
    report = call('import-yolov5', weights, '-o', tmp_path / 'alone.py')
    assert report.converted.has_head
    assert [str(note).partition(' ')[2][:8] for note in report.notes] == ['anchors:']
    capsys.readouterr()
    stock = write_yaml(tmp_path / 'yolov5n.yaml', yolov5_model('n'))  # nc: 80
    out = tmp_path / 'both.py'
    call('import_yolov5', stock, '-o', out, '--weights', weights)
    printed = capsys.readouterr().out
    assert f'yolov5n.yaml:1 nc: 80: 1 of {weights} is taken' in printed
    assert f'those of {weights} are taken' in printed
    for path in (tmp_path / 'alone.py', out):
        cfg = Config.fromfile(path)
        head = cfg.model.bbox_head
        assert head.head_module.num_classes == 1
        sizes = head.prior_generator.base_sizes
        assert [[tuple(pair) for pair in level] for level in sizes] == anchors
        assert cfg.img_scale == (416, 416) and cfg.optim_wrapper.optimizer.lr == 0.02
        for mode in ('train', 'val', 'test'):
            dataset = cfg[f'{mode}_dataloader'].dataset
            assert dataset.metainfo.classes == ('helmet',)
        saved = torch.load(cfg.load_from, weights_only=True)
        assert saved['meta']['dataset_meta']['classes'] == ['helmet']
    # The raw file with the written config, as predict and export load it.
    loaded = load_detector(cfg, str(weights)).dataset_meta['classes']
    assert list(loaded) == ['helmet']


@pytest.mark.slow
@pytest.mark.parametrize(
    'names, classes',
    [(['a', 'b'], ('a', 'b')), ({1: 'b', 3: 'c'}, ('class0', 'class1'))],
)
def test_names_that_are_unknown_are_numbers(names, classes, tmp_path):
    write_trained(tmp_path / 'x.pt', yolov5_model('n', nc=2), names)
    call('import_yolov5', tmp_path / 'x.pt', '-o', tmp_path / 'x.py')
    cfg = Config.fromfile(tmp_path / 'x.py')
    assert cfg.test_dataloader.dataset.metainfo.classes == classes


def test_a_plain_file_names_its_model_and_classes(tmp_path):
    """As ``convert_weights --to yolov5`` writes it; without names, they are numbers."""
    content = small_yolov5()
    state = yolov5_names(import_content(tmp_path, content)[2].state_dict(), 5)
    plain = {'state_dict': state, 'yaml': content, 'names': {0: 'a', 2: 'c', 1: 'b'}}
    torch.save(plain, tmp_path / 'back.pth')
    call('import_yolov5', tmp_path / 'back.pth', '-o', tmp_path / 'x.py')
    assert Config.fromfile(tmp_path / 'x.py').classes == ('a', 'b', 'c')
    del plain['yaml']
    torch.save(plain, tmp_path / 'bare.pt')
    file = write_yaml(tmp_path / 'y.yaml', content)
    argv = ['import_yolov5', file, '--weights', tmp_path / 'bare.pt']
    call(*argv, '-o', tmp_path / 'y.py')
    cfg = Config.fromfile(tmp_path / 'y.py')
    for mode in ('train', 'test'):  # else COCO's 80, which no head of three has
        metainfo = cfg[f'{mode}_dataloader'].dataset.metainfo
        assert metainfo.classes == ('class0', 'class1', 'class2')
    load_detector(cfg, str(tmp_path / 'y.pth'))


def write_channels(folder: Path, channels: int) -> tuple[Path, torch.Tensor]:
    """A trained ``x.pt`` for images of so many channels; its first convolution."""
    content = {**small_yolov5(), 'ch': channels}
    state = yolov5_names(import_content(folder, small_yolov5())[2].state_dict(), 5)
    first = torch.rand(32, channels, 3, 3).half().float()  # what the file can hold
    state['model.0.conv.weight'] = first
    write_trained(folder / 'x.pt', content, ['a', 'b', 'c'], state)
    return folder / 'x.pt', first


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('with_yaml', [False, True])
def test_images_of_other_channels(channels, with_yaml, tmp_path):
    weights, first = write_channels(tmp_path, channels)
    argv = [weights]
    if with_yaml:  # which says nothing of it, as YOLOv5's
        yaml = write_yaml(tmp_path / 'stock.yaml', small_yolov5())
        argv = [yaml, '--weights', weights]
    out = tmp_path / 'x.py'
    report = call('import_yolov5', *argv, '-o', out)
    notes = [str(note) for note in report.notes if 'ch:' in str(note)]
    assert len(notes) == with_yaml
    assert 'first convolution' not in str(report.converted.receipt)
    assert f'\nin_channels = {channels}\n' in out.read_text()
    cfg = read_config(str(out))
    assert cfg.model.backbone.in_channels == channels
    saved = torch.load(cfg.load_from, weights_only=True)['state_dict']
    assert torch.equal(saved['backbone.rows.0.conv.weight'], first)
    detector = load_detector(cfg, cfg.load_from)
    assert torch.equal(detector.state_dict()['backbone.rows.0.conv.weight'], first)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_a_yaml_says_how_many_channels(channels, tmp_path):
    yaml = write_yaml(tmp_path / 'x.yaml', {**small_yolov5(), 'ch': channels})
    report = call('import_yolov5', yaml, '-o', tmp_path / 'x.py')
    assert not report.notes
    assert ('in_channels' in (tmp_path / 'x.py').read_text()) == (channels != 3)
    backbone = read_config(str(tmp_path / 'x.py')).model.backbone
    assert backbone.get('in_channels', 3) == channels


@pytest.mark.parametrize('channels', [2, 5])
def test_images_of_other_channels_are_named(channels, tmp_path):
    """They were called pruned."""
    weights, _ = write_channels(tmp_path, channels)
    stock = write_yaml(tmp_path / 'stock.yaml', small_yolov5())
    odd = write_yaml(tmp_path / 'odd.yaml', {**small_yolov5(), 'ch': channels})
    for argv in ([weights], [stock, '--weights', weights], [odd]):
        with pytest.raises(UserError, match=f'images of {channels} channels') as error:
            call('import_yolov5', *argv, '-o', tmp_path / 'x.py')
        assert Path(error.value.file).name == (odd.name if argv == [odd] else 'x.pt')
        assert not (tmp_path / 'x.py').exists()


def test_hyperparameters_of_weights_that_cannot_be(tmp_path):
    content = small_yolov5()
    state = yolov5_names(import_content(tmp_path, content)[2].state_dict(), 5)
    names = ['a', 'b', 'c']
    opt = dict(hyp={'lr0': -1, 'box': 0.1})
    write_trained(tmp_path / 'x.PT', content, names, state, opt=opt)
    report = call('import_yolov5', tmp_path / 'x.PT', '-o', tmp_path / 'x.py')
    (note,) = report.notes
    assert 'opt.hyp: lr0: -1 is out of range' in str(note)
    assert str(note).endswith('our own hyperparameters are taken')


def test_two_files_of_weights_are_told_apart_from_a_yaml(tmp_path):
    argv = ['import_yolov5', 'best.pt', '--weights', 'last.pt', '-o', tmp_path / 'x.py']
    with pytest.raises(UserError, match='best.pt is no YAML, .* as last.pt does'):
        call(*argv)


@pytest.mark.slow
def test_a_pretrained_path_matters_without_weights_alone(tmp_path):
    content = document_model('resnet18', '/gone/resnet.pth')
    file = write_yaml(tmp_path / 'model.yaml', content)
    with pytest.raises(FileNotFoundError, match='/gone/resnet.pth does not exist') as e:
        call('import_yolov5', file, '-o', tmp_path / 'x.py')
    assert len(str(e.value).splitlines()) == 1
    assert read_model(read_yaml(file), is_trained=True).backbone['model_name']


@pytest.mark.slow
def test_pruned_weights_and_another_yaml_are_told_apart(tmp_path):
    content = yolov5_model('n', nc=3)
    weights = tmp_path / 'best.pt'
    state = write_trained(weights, content, ['a', 'b', 'c'])
    other = write_yaml(tmp_path / 'model.yaml', yolov5_model('s', nc=3))
    with pytest.raises(UserError, match='model.yaml is of another model. Leave it out'):
        call('import_yolov5', other, '-o', tmp_path / 'x.py', '--weights', weights)
    for name in ('bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'):
        state[f'model.1.{name}'] = state[f'model.1.{name}'][:20]
    state['model.1.conv.weight'] = state['model.1.conv.weight'][:20]
    for name in ('model.2.cv1.conv.weight', 'model.2.cv2.conv.weight'):
        state[name] = state[name][:, :20]
    write_trained(weights, content, ['a', 'b', 'c'], state)
    with pytest.raises(UserError) as error:
        call('import_yolov5', weights, '-o', tmp_path / 'x.py')
    assert 'as in a model that was pruned' in str(error.value)
    assert '20x16x3x3, by the YAML 32x16x3x3' in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.slow
def test_weights_of_another_model_are_refused(tmp_path):
    content = yolov5_model('n', nc=3)
    _, _, trained = import_content(tmp_path, content)
    state = yolov5_names(trained.state_dict(), 24)
    write_yolov5_checkpoint(tmp_path / 'best.pt', state, module_names(content))
    file = write_yaml(tmp_path / 'model.yaml', yolov5_model('s', nc=3))
    message = 'best.pt: the weights do not fit: .*model.yaml is of another model'
    with pytest.raises(UserError, match=message):
        call(
            'import_yolov5', file, '-o', tmp_path / 'x.py', '--weights',
            tmp_path / 'best.pt',
        )  # fmt: skip
    assert not list(tmp_path.glob('x.*'))


@pytest.mark.slow
def test_hyperparameters(tmp_path, capsys):
    content = yolov5_model('s', nc=20)
    content['spare'] = 7
    hyp = dict(
        lr0=0.02, lrf=0.1, momentum=0.9, weight_decay=0.001, warmup_epochs=2.0,
        warmup_momentum=0.7, warmup_bias_lr=0.05, box=0.1, cls=0.25, obj=0.5,
        anchor_t=3.0, hsv_h=0.01, hsv_s=0.2, hsv_v=0.3, degrees=5.0, translate=0.2,
        scale=0.9, shear=1.0, fliplr=0.25, flipud=0.125, mosaic=1.0, mixup=0.1,
        cls_pw=1.0, obj_pw=1.5, iou_t=0.2, fl_gamma=0.0, perspective=0.001,
        copy_paste=0.0, anchors=0, unheard_of=3,
    )  # fmt: skip
    write_yaml(tmp_path / 'hyp.yaml', hyp)
    file = write_yaml(tmp_path / 'm.yaml', content)
    out = tmp_path / 'x.py'
    call(
        'import_yolov5', file, '-o', out, '--hyp', tmp_path / 'hyp.yaml',
        '--imgsz', 320, '--epochs', 40, '--batch-size', 4,
    )  # fmt: skip
    printed = capsys.readouterr().out
    lacking = [line.strip() for line in printed.splitlines()[-6:]]
    at = {key: i for i, key in enumerate(hyp, start=1)}
    spare = file.read_text().splitlines().index('spare: 7') + 1
    assert lacking == [
        '5 entries have no counterpart:',
        f'{tmp_path}/m.yaml:{spare} spare: 7',
        *(
            f'{tmp_path}/hyp.yaml:{at[key]} {key}: {hyp[key]}{more}'
            for key, more in (
                ('obj_pw', ''),
                ('iou_t', ' (YOLOv5 does not use it either)'),
                ('perspective', ''),
                ('unheard_of', ''),
            )
        ),
    ]
    text = out.read_text()
    assert all(line in text for line in lacking[1:])
    assert len(text.splitlines()) <= 80

    cfg = Config.fromfile(out)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        0.02, 0.9, 0.001,
    )  # fmt: skip
    hook = cfg.default_hooks.param_scheduler
    assert (hook.lr_factor, hook.warmup_epochs, hook.max_epochs) == (0.1, 2.0, 40)
    assert (hook.warmup_momentum, hook.warmup_bias_lr) == (0.7, 0.05)
    head = cfg.model.bbox_head
    weights = [head[f'loss_{name}'].loss_weight for name in ('bbox', 'cls', 'obj')]
    assert weights == pytest.approx([0.1, 0.25 * 20 / 80, 0.5 * 0.25])
    assert head.prior_match_thr == 3.0
    steps = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert steps == [
        'LoadImageFromFile', 'LoadAnnotations', 'Mosaic', 'YOLOv5RandomAffine',
        'YOLOv5MixUp', 'YOLOv5HSVRandomAug', 'mmdet.RandomFlip', 'mmdet.RandomFlip',
        'mmdet.PackDetInputs',
    ]  # fmt: skip
    by_name = dict(zip(steps, cfg.train_dataloader.dataset.pipeline))
    affine = by_name['YOLOv5RandomAffine']
    assert affine.scaling_ratio_range == (0.1, 1.9) and affine.border == (-160, -160)
    assert (affine.max_rotate_degree, affine.max_shear_degree) == (5.0, 1.0)
    assert affine.max_translate_ratio == 0.2
    hsv = by_name['YOLOv5HSVRandomAug']
    assert (hsv.hue_delta, hsv.saturation_delta, hsv.value_delta) == (0.01, 0.2, 0.3)
    assert by_name['YOLOv5MixUp'].prob == 0.1
    flips = [t for t in cfg.train_pipeline if t.type == 'mmdet.RandomFlip']
    assert [f.prob for f in flips] == [0.25, 0.125]
    assert flips[1].direction == 'vertical'
    build(text)


@pytest.mark.slow
def test_no_text_of_a_file_becomes_code(yolo_data, tmp_path, capsys):
    """A newline would end the comment that a note stands in, and a null the config."""
    code = f'a\0\r\x0c\ud800\nopen({str(tmp_path / "run")!r}, "w")\n#'
    content = yolov5_model('n', nc=3)
    content[code] = code
    file = tmp_path / 'm.yaml'
    file.write_text(json.dumps(content))  # which is YAML
    (tmp_path / 'hyp.yaml').write_text(json.dumps({code: 1}))
    data = tmp_path / 'data.yaml'
    data.write_text(
        json.dumps({**yaml.safe_load(yolo_data.read_text()), code: 1,
                    'path': str(yolo_data.parent)})
    )  # fmt: skip
    out = tmp_path / 'x.py'
    call(
        'import_yolov5', file, '-o', out, '--hyp', tmp_path / 'hyp.yaml', '--data', data
    )
    assert out.read_text().count('# No counterpart: ') == 4  # download too
    Config.fromfile(out)
    assert not (tmp_path / 'run').exists()
    assert len(capsys.readouterr().out.strip().splitlines()[-5:]) == 5


@pytest.mark.slow
def test_levels_in_any_order_have_their_anchors(tmp_path):
    """YOLOv5 turns the anchors' order round too."""
    content = yolov5_model('n')
    content['head'][-1][0] = [23, 20, 17]
    out = tmp_path / 'x.py'
    call('import_yolov5', write_yaml(tmp_path / 'm.yaml', content), '-o', out)
    cfg = Config.fromfile(out)
    assert cfg.model.neck.out_rows == (23, 20, 17)
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [tuple(level[0]) for level in sizes] == [(116, 90), (30, 61), (10, 13)]


@pytest.mark.parametrize(
    'edit, message',
    [
        (dict(train='nowhere'), r'data.yaml:1: train: nowhere does not exist'),
        (dict(val=None), r"no 'val'"),
        (dict(nc=4), r'data.yaml:3: nc: it is 4'),
    ],
)
def test_data_are_looked_for(edit, message, yolo_data, tmp_path):
    content = {**yaml.safe_load(yolo_data.read_text()), **edit}
    data = yolo_data.parent / 'other' / 'data.yaml'
    data.parent.mkdir(exist_ok=True)
    write_yaml(data, {**content, 'path': '..'})
    file = write_yaml(tmp_path / 'm.yaml', yolov5_model('n', nc=3))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call('import_yolov5', file, '-o', f'{tmp_path}/new/x.py', '--data', data)
    assert not (tmp_path / 'new').exists()
    with pytest.raises(UserError, match='its folder is a file'):
        call('import_yolov5', file, '-o', f'{file}/x.py')


def test_the_written_config_finds_the_images_that_the_import_found(
    tmp_path, monkeypatch
):
    """Those above the file's folder, though the working folder has a path like it."""
    for folder in ('data', 'here'):
        (tmp_path / folder / 'images').mkdir(parents=True)
    file = tmp_path / 'data' / 'yamls' / 'data.yaml'
    file.parent.mkdir()
    file.write_text('train: images\nval: images\nnames: [a, b, c]\n')
    model = write_yaml(tmp_path / 'm.yaml', small_yolov5())
    monkeypatch.chdir(tmp_path / 'here')
    report = call('import_yolov5', model, '-o', 'x.py', '--data', file)
    assert f'train: images is {tmp_path}/data/images' in report.places
    dataset = Config.fromfile('x.py').train_dataloader.dataset
    found = find_sources(file, 'train', dataset.get('data_root'))
    assert found.paths == [f'{tmp_path}/data/images']


def test_a_data_root_that_is_no_folder(yolo_data, tmp_path):
    file = write_yaml(tmp_path / 'm.yaml', small_yolov5())
    argv = ['import_yolov5', file, '-o', tmp_path / 'x.py', '--data', yolo_data]
    with pytest.raises(MissingFileError, match='--data-root gone is no folder'):
        call(*argv, '--data-root', 'gone')


@pytest.mark.slow
@pytest.mark.parametrize('by', ['--data-root', 'the working folder'])
def test_data_are_found_from_another_folder(by, yolo_data, tmp_path, monkeypatch):
    """And by the written config too, whatever folder it is used in."""
    content = yaml.safe_load(yolo_data.read_text())
    (tmp_path / 'away').mkdir()
    moved = write_yaml(tmp_path / 'away' / 'data.yaml', {**content, 'path': '.'})
    file = write_yaml(tmp_path / 'm.yaml', yolov5_model('n', nc=3))
    options = ['--data-root', yolo_data.parent]
    if by == 'the working folder':
        options = []
        monkeypatch.chdir(yolo_data.parent)
    out = tmp_path / 'x.py'
    report = call('import_yolov5', file, '-o', out, '--data', moved, *options)
    assert str(yolo_data.parent) in ''.join(report.places)
    monkeypatch.chdir(tmp_path)
    dataset = build_dataset(Config.fromfile(out), 'val')
    assert len(dataset) and Path(dataset.get_data_info(0)['img_path']).exists()


@pytest.mark.slow
def test_a_large_model_with_everything_fits_80_lines(yolo_data, tmp_path, capsys):
    """And the size is rounded up to the largest stride, as in YOLOv5."""
    content = yolov5_model('s', (128, 256, 512, 768, 1024), nc=3)
    content.update({f'spare{i}': i for i in range(40)})
    file = write_yaml(tmp_path / 'm.yaml', content)
    hyp = dict(fliplr=0.5, flipud=0.5, mosaic=0, mixup=0.5, hsv_h=0.1, degrees=3)
    write_yaml(tmp_path / 'hyp.yaml', hyp)
    out = tmp_path / 'x.py'
    call(
        'import_yolov5', file, '-o', out, '--hyp', tmp_path / 'hyp.yaml',
        '--imgsz', 600, '--data', yolo_data,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert '--imgsz 600 is not a multiple of 64: 640 is taken' in printed
    assert all(f' spare{i}: {i}' in printed for i in range(40))
    assert len(out.read_text().splitlines()) <= 80
    cfg = Config.fromfile(out)
    assert cfg.img_scale == (640, 640)
    assert cfg.val_dataloader.dataset.batch_shapes_cfg.size_divisor == 64
    assert cfg.model.bbox_head.obj_level_weights == [4.0, 1.0, 0.25, 0.06]
    rows = [list(row) for row in (*content['backbone'], *content['head'][:-1])]
    for row in rows:
        row[3] = [None if x == 'None' else x for x in row[3]]
    written = [*cfg.model.backbone.rows, *cfg.model.neck.rows]
    assert [list(row) for row in written] == rows


@pytest.mark.slow
def test_config_and_weights_are_both_written_or_neither(tmp_path, monkeypatch):
    content = yolov5_model('n', nc=3)
    _, _, trained = import_content(tmp_path, content)
    state = yolov5_names(trained.state_dict(), 24)
    write_yolov5_checkpoint(tmp_path / 'best.pt', state, module_names(content))
    argv = [tmp_path / 'model.yaml', '--weights', tmp_path / 'best.pt', '-o']
    (tmp_path / 'x.pth').write_text('mine')
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match='x.pth exists, and nothing is overwritten'):
        call('import_yolov5', *argv, tmp_path / 'x.py')

    def fail(*args: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='No space left'):
        call('import_yolov5', *argv, tmp_path / 'y.py')
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / 'x.pth').read_text() == 'mine'


@pytest.mark.parametrize('name', ['imgsz', 'epochs', 'batch-size'])
@pytest.mark.parametrize('value', [0, 100_000])
def test_numbers_out_of_range(name, value, tmp_path):
    file = write_yaml(tmp_path / 'm.yaml', yolov5_model('n'))
    with pytest.raises(UserError, match=f'^--{name}: write 1 to 99999'):
        call('import-yolov5', file, '-o', tmp_path / 'x.py', f'--{name}', value)


@pytest.mark.parametrize(
    'anchors, strides, flipped',
    [
        ([[(1, 2)], [(3, 4)]], [8, 16], False),
        ([[(1, 2)], [(3, 4)]], [16, 8], True),
        ([[(3, 4)], [(1, 2)]], [8, 16], True),
        ([[(3, 4)]], [8], False),
    ],
)
def test_small_anchors_go_to_the_small_stride(anchors, strides, flipped):
    assert order_anchors(anchors, strides) == (anchors[::-1] if flipped else anchors)


@pytest.mark.slow
def test_the_command_as_a_script(tmp_path):
    write_yaml(tmp_path / 'm.yaml', yolov5_model('n', nc=3))
    printed = run_tool('import_yolov5.py', 'm.yaml', '-o', 'x.py', cwd=tmp_path)
    assert '0 entries have no counterpart\n' in printed
    assert Config.fromfile(tmp_path / 'x.py').model.type == 'FittedYOLODetector'
    printed = run_tool('import_yolov5.py', 'm.yaml', '-o', 'x.py', cwd=tmp_path, code=1)
    assert 'mmnextvit import_yolov5: x.py exists, and nothing is overwritten' in printed
    assert 'Traceback' not in printed


@pytest.mark.slow
@pytest.mark.parametrize('head', ['Detect', 'Segment'])
def test_the_config_trains_resumes_and_predicts(head, yolo_data, tmp_path, capfd):
    """Anchors come from the data or, with weights of other classes, from these."""
    args = ['nc', 'anchors', 32, 256][: 4 if head == 'Segment' else 2]
    content = yolov5_model('n', head=(head, args), nc=5)
    content['width_multiple'] = 0.125
    content['anchors'] = 2
    write_yaml(tmp_path / 'model.yaml', content)
    weights, classes = [], ['square', 'cat', 'circle', 'dog', 'cow']
    if head == 'Detect':
        _, _, trained = import_content(tmp_path, content)
        anchors = [[(5 * i, 6 * i), (7 * i, 8 * i)] for i in (1, 2, 3)]
        write_yolov5_checkpoint(
            tmp_path / 'best.pt', yolov5_names(trained.state_dict(), 24),
            module_names(content), anchors=anchors, names=classes,
        )  # fmt: skip
        weights = ['--weights', 'best.pt']
    printed = run_here(
        'import-yolov5', 'model.yaml', '--data', yolo_data, '--imgsz', 64,
        '--epochs', 2, '--batch-size', 4, '-o', 'mine.py', *weights,
        cwd=tmp_path, capfd=capfd,
    )  # fmt: skip
    assert f'{yolo_data}:5 download' in printed
    kept = "  classes: kept circle, square; new: triangle; left out: 3 of the file's\n"
    assert (kept in printed) == bool(weights)
    assert 'The head starts anew' not in printed
    if weights:
        saved = torch.load(tmp_path / 'mine.pth')
        assert saved['meta']['dataset_meta'] == {
            'classes': ['circle', 'square', 'triangle']
        }
        for i, conv in enumerate(trained.bbox_head.head_module.convs_pred):
            name = f'bbox_head.head_module.convs_pred.{i}.bias'
            ours = saved['state_dict'][name].view(2, 8)
            theirs = conv.bias.detach().view(2, 10).half().float()
            assert torch.equal(ours[:, :7], theirs[:, [0, 1, 2, 3, 4, 7, 5]])
            # A class begins with few objects; in this file none of them does.
            assert ours[:, 7].max() < -0.8 < theirs[:, 5:].min()
    cfg = Config.fromfile(tmp_path / 'mine.py')
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert [len(level) for level in sizes] == [2, 2, 2]
    assert max(side for level in sizes for pair in level for side in pair) <= 64
    small = ['--no-report', '--cfg-options', 'train_dataloader.num_workers=0',
             'train_dataloader.persistent_workers=False',
             'val_dataloader.num_workers=0',
             'val_dataloader.persistent_workers=False', 'train_cfg.val_interval=1',
             'default_hooks.checkpoint.interval=1']  # fmt: skip
    first = [*small, 'train_cfg.max_epochs=1']
    started = run_here('train', 'mine.py', *first, cwd=tmp_path, capfd=capfd)
    assert ('mine.pth: mmnextvit, sha256' in started) == bool(weights)
    resumed = run_here(
        'train', 'mine.py', '--resume', *small, cwd=tmp_path, capfd=capfd
    )
    assert 'resumed epoch: 1' in resumed
    assert 'coco/bbox_mAP' in resumed
    assert ('coco/segm_mAP' in resumed) == (head == 'Segment')
    weights = tmp_path / 'work_dirs' / 'mine' / 'epoch_2.pth'
    run_here(
        'predict', 'mine.py', weights, yolo_data.parent / 'images' / 'val',
        '--out-dir', 'found', '--score-thr', '0.001', '--feature-maps', cwd=tmp_path,
        capfd=capfd,
    )  # fmt: skip
    found = json.loads((tmp_path / 'found' / 'predictions.json').read_text())
    assert found['classes'] == ['circle', 'square', 'triangle']
    assert len(found['predictions']) == 4
    maps = tmp_path / 'found' / found['predictions'][0]['feature_maps']
    assert len(list(maps.glob('[0-2][0-9]_*.png'))) == 24  # an image a row
