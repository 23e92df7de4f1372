"""A detector's weights for other classes: each class keeps what it had been taught."""

from itertools import count
from operator import itemgetter
from pathlib import Path

from mmnextvit.utils.errors import UserError
from mmnextvit.weights.class_rows import match_classes
from mmnextvit.weights.loading import adapt

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

THEIRS = 'person', 'cat', 'dog', 'car', 'bird'
OURS = 'dog', 'tree', 'person', 'bird'
WIDTH = 8
CONV = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
RETINA = dict(
    type='mmdet.RetinaHead', in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1
)
SOFTMAX = dict(loss_cls=dict(type='mmdet.CrossEntropyLoss'))
ONE_STAGE = {
    'yolov5': lambda n: dict(
        type='YOLOv5Head',
        head_module=dict(
            type='YOLOv5HeadModule', num_classes=n, in_channels=[WIDTH] * 3
        ),
    ),
    'yolov5 with masks': lambda n: dict(
        type='YOLOv5InsHead',
        head_module=dict(
            type='YOLOv5InsHeadModule',
            num_classes=n,
            in_channels=[WIDTH] * 3,
            mask_channels=6,
            proto_channels=4,
        ),
    ),
    'yolov8': lambda n: dict(
        type='YOLOv8Head',
        head_module=dict(
            type='YOLOv8HeadModule', num_classes=n, in_channels=[WIDTH] * 3
        ),
    ),
    'rtmdet': lambda n: dict(
        type='RTMDetHead',
        head_module=dict(
            type='RTMDetSepBNHeadModule',
            num_classes=n,
            in_channels=WIDTH,
            feat_channels=WIDTH,
            **CONV,
        ),
    ),
    "mmdet's rtmdet": lambda n: dict(
        type='mmdet.RTMDetSepBNHead',
        num_classes=n,
        in_channels=WIDTH,
        feat_channels=WIDTH,
        stacked_convs=1,
        **CONV,
        anchor_generator=dict(type='mmdet.MlvlPointGenerator', strides=[8, 16, 32]),
        bbox_coder=dict(type='mmdet.DistancePointBBoxCoder'),
        loss_cls=dict(type='mmdet.QualityFocalLoss', use_sigmoid=True),
    ),
    'retinanet': lambda n: dict(RETINA, num_classes=n),
    'retinanet with background': lambda n: dict(RETINA, num_classes=n, **SOFTMAX),
}
HEADS = [*ONE_STAGE, 'detr', 'mask r-cnn', 'r-cnn with one box']


class Detector(nn.Module):
    """A head of the given type behind a backbone that does nothing."""

    def __init__(self, kind: str, classes: int, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        ours = kind in ('yolov5', 'yolov5 with masks', 'yolov8', 'rtmdet')
        init_default_scope('mmyolo' if ours else 'mmdet')
        self.kind, self.classes = kind, classes
        self.backbone = nn.Linear(1, 1)
        if kind in ONE_STAGE:
            self.bbox_head = MODELS.build(ONE_STAGE[kind](classes))
        elif kind == 'detr':
            self.bbox_head = MODELS.build(
                dict(type='mmdet.ConditionalDETRHead', num_classes=classes,
                     embed_dims=WIDTH,
                     loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True))
            )  # fmt: skip
        else:
            self.roi_head = nn.ModuleDict(
                dict(
                    bbox_head=MODELS.build(
                        dict(type='mmdet.Shared2FCBBoxHead', num_classes=classes,
                             in_channels=2, fc_out_channels=WIDTH, roi_feat_size=3,
                             reg_class_agnostic='one' in kind)
                    ),
                    mask_head=MODELS.build(
                        dict(type='mmdet.FCNMaskHead', num_classes=classes,
                             num_convs=1, in_channels=2, conv_out_channels=WIDTH,
                             class_agnostic='one' in kind)
                    ),
                )
            )  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = scale * torch.randn(parameter.shape, generator=g)
        self.eval()

    @torch.no_grad()
    def read(self) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs for random maps: of the classes, the first axis, and the others."""
        g = torch.Generator().manual_seed(7)
        n = self.classes
        if self.kind in ONE_STAGE:
            maps = [
                torch.randn(1, WIDTH, side, side, generator=g) for side in (6, 4, 2)
            ]
            scores, *rest = self.bbox_head(maps)
            of_classes, shared = [], [part for parts in rest for part in parts]
            for level in scores:
                each = n + ('background' in self.kind)
                anchors = level.unflatten(1, (-1, each)).transpose(0, 2)
                of_classes.append(anchors[:n])
                shared.append(anchors[n:])
            return of_classes, shared
        if self.kind == 'detr':
            hidden = torch.randn(2, 1, 5, WIDTH, generator=g)
            scores, boxes = self.bbox_head(hidden, torch.rand(1, 5, 2, generator=g))
            return [scores.movedim(-1, 0)], [boxes]
        heads = self.roi_head
        scores, boxes = heads['bbox_head'](torch.randn(4, 2, 3, 3, generator=g))
        masks = heads['mask_head'](torch.randn(4, 2, 3, 3, generator=g))
        of_classes, shared = [scores.T[:n]], [scores.T[n]]
        if 'one' in self.kind:
            return of_classes, [*shared, boxes, masks]
        of_classes += [boxes.view(4, n, 4).transpose(0, 1), masks.transpose(0, 1)]
        return of_classes, shared


def make_content(model, classes=THEIRS):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    meta = {} if classes is None else dict(dataset_meta=dict(classes=tuple(classes)))
    return dict(state_dict=state, meta=meta)


def start(content, model, classes=OURS):
    """What a training does with the weights that it starts from."""
    receipt = adapt(content, model, 'x.pth', classes, starts_training=True)
    model.load_state_dict(content['state_dict'], strict=False)
    return receipt


def get_line(receipt):
    (line,) = (n for n in str(receipt).splitlines() if n.startswith('  classes: '))
    return line.removeprefix('  classes: ')


@pytest.mark.parametrize('kind', HEADS)
def test_each_class_keeps_its_outputs(kind):
    """And boxes, objectness and background; new classes keep their initialisation."""
    old, new = Detector(kind, 5, seed=1), Detector(kind, 4, seed=2)
    fresh = new.state_dict()
    fresh = {
        name: (value if value.shape == fresh[name].shape else fresh[name]).clone()
        for name, value in old.state_dict().items()
    }
    receipt = start(make_content(old), new)
    assert receipt.fit.complete
    kept = "kept dog, person, bird; new: tree; left out: 2 of the file's"
    assert get_line(receipt) == kept
    (wanted, others), (found, found_others) = old.read(), new.read()
    for theirs, ours in zip(wanted, found, strict=True):
        for name in ('dog', 'person', 'bird'):
            a, b = ours[OURS.index(name)], theirs[THEIRS.index(name)]
            torch.testing.assert_close(a, b)
            assert b.std() > 0.01
    torch.testing.assert_close(found_others, others)
    # What the model was built with, behind layers that are the file's.
    reference = Detector(kind, 4, seed=3)
    reference.load_state_dict(fresh)
    for built, ours in zip(reference.read()[0], found, strict=True):
        torch.testing.assert_close(ours[1], built[1])
        assert not torch.allclose(ours[0], built[0])


@pytest.mark.parametrize('kind', HEADS)
def test_another_order_and_other_names_of_as_many_classes(kind):
    """All shapes fit, but not what the rows are of."""
    old, new = Detector(kind, 5, seed=1), Detector(kind, 5, seed=2)
    start(make_content(old), new, THEIRS[::-1])
    for theirs, ours in zip(old.read()[0], new.read()[0], strict=True):
        torch.testing.assert_close(ours.flip(0), theirs)
    new = Detector(kind, 5, seed=2)
    receipt = start(make_content(old), new, ('a', 'b', 'cat', 'd', 'e'))
    kept = "kept cat; new: a, b, d, e; left out: 4 of the file's"
    assert get_line(receipt) == kept
    for theirs, ours in zip(old.read()[0], new.read()[0], strict=True):
        torch.testing.assert_close(ours[2], theirs[1])
        for row in (0, 1, 3, 4):
            assert all(not torch.allclose(ours[row], one) for one in theirs)


@pytest.mark.parametrize(
    'ours, theirs, same',
    [
        ('abc', 'abc', {0: 0, 1: 1, 2: 2}),
        ('abc', 'cxa', {0: 2, 2: 0}),
        (('Car ', 'dog'), ('bus', 'car', 'DOG'), {0: 1, 1: 2}),
        (('car', 'Car'), ('Car', 'CAR', 'car'), {0: 2, 1: 0}),
        (('car', 'dog'), ('Car', 'CAR', 'dog'), {1: 2}),  # which of the two?
        (('Car', 'CAR'), ('car',), {}),
        ('aab', 'ab', {2: 1}),
        ('ab', 'aab', {1: 2}),
        ('aab', 'aab', {0: 0, 1: 1, 2: 2}),
        ('ab', 'xy', {}),
    ],
)
def test_which_names_are_the_same(ours, theirs, same):
    assert match_classes(tuple(ours), tuple(theirs)) == same


def test_what_the_receipt_says_of_names():
    old = Detector('yolov5', 5, seed=1)
    names = 'Person', 'cat', 'dog', 'dog', '\x1b[31m'

    def tell(*ours):
        new = Detector('yolov5', len(ours), seed=2)
        return get_line(start(make_content(old, names), new, ours))

    assert tell('person', 'dog') == (
        'kept person (Person in the file); new: dog (ambiguous); left out: 4 of the '
        "file's"
    )
    assert tell('tree') == "kept none; new: tree; left out: 5 of the file's"
    assert tell(*names) == r'kept Person, cat, dog, dog, \x1b[31m'
    many = [f'class {i}' for i in range(100)]
    assert len(tell(*many)) < 200 and ' and 95 more' in tell(*many)


@pytest.mark.parametrize(
    'names, ours, message',
    [
        (None, 5, 'the file does not name its 5 classes: all 5 rows are kept in the'),
        (None, 4, 'the file does not name its 5 classes: those of all 4 classes start'),
        ('ab', 5, 'the file has 2 names for the 5 classes of its head: all 5 rows are'),
        ('ab', 2, 'the file has 2 names for the 5 classes of its head: those of all 2'),
    ],
)
def test_a_file_without_names_or_with_others_than_it_has_rows(names, ours, message):
    old, new = Detector('yolov5', 5, seed=1), Detector('yolov5', ours, seed=2)
    own = new.read()
    receipt = start(make_content(old, names), new, 'abcde'[:ours])
    assert get_line(receipt).startswith(message)
    (theirs, others), (found, found_others) = old.read(), new.read()
    torch.testing.assert_close(found_others, others)
    torch.testing.assert_close(found, theirs if ours == 5 else own[0])


def test_data_without_names():
    """As many classes are the file's; of others nobody knows which they are."""
    old = Detector('yolov5', 5, seed=1)
    new = Detector('yolov5', 5, seed=2)
    receipt = start(make_content(old), new, None)
    assert get_line(receipt) == 'kept person, cat, dog, car, bird'
    torch.testing.assert_close(new.read(), old.read())
    new = Detector('yolov5', 3, seed=2)
    own = new.read()
    receipt = start(make_content(old), new, None)
    assert get_line(receipt).startswith(
        "the model's 3 classes have no names yet: those"
    )
    torch.testing.assert_close(new.read(), (own[0], old.read()[1]))


def drop_head(content):
    state = content['state_dict']
    content['state_dict'] = {k: v for k, v in state.items() if 'backbone' in k}


def change_inputs(content):
    name = 'bbox_head.head_module.convs_pred.1.weight'
    content['state_dict'][name] = torch.ones(30, 9, 1, 1)


def change_anchors(content):
    for name, value in content['state_dict'].items():
        if 'convs_pred' in name:
            content['state_dict'][name] = value[:20].clone()


def make_scalar(content):
    content['state_dict']['bbox_head.head_module.convs_pred.1.bias'] = torch.ones(())


@pytest.mark.parametrize(
    'change', [drop_head, change_inputs, change_anchors, make_scalar]
)
def test_a_head_that_is_another_one_is_left_alone(change):
    """All of its layers are, and the receipt says what does not fit, as ever."""
    content = make_content(Detector('yolov5', 5, seed=1))
    change(content)
    given = dict(content['state_dict'])
    receipt = adapt(content, Detector('yolov5', 4, seed=2), 'x.pth', OURS, True)
    assert content['state_dict'].keys() == given.keys()
    assert all(content['state_dict'][k] is given[k] for k in given)
    assert receipt.classes is None and '  classes: ' not in str(receipt)
    assert bool(receipt.fit.reshaped) == (change is not drop_head)
    (note,) = receipt.notes
    assert note.startswith(
        "classes ['person', 'cat', 'dog', 'car', 'bird'] in the file"
    )


def test_a_head_of_ones_own_stays_as_the_file_has_it():
    """It may have a layer of a known name; the receipt names both lists of classes."""

    def build():
        head = nn.ModuleDict(dict(my_cls=nn.Linear(2, 5)))
        return nn.ModuleDict(dict(backbone=nn.Linear(1, 1), bbox_head=head))

    old, new = build(), build()
    receipt = start(make_content(old), new, THEIRS[::-1])
    assert torch.equal(
        new['bbox_head']['my_cls'].weight, old['bbox_head']['my_cls'].weight
    )
    (note,) = receipt.notes
    assert note.startswith(
        "classes ['person', 'cat', 'dog', 'car', 'bird'] in the file"
    )
    assert receipt.classes is None


def test_nothing_is_carried_over_where_no_training_starts():
    """Tests and resumed trainings want the file as it is."""
    old, new = Detector('yolov5', 5, seed=1), Detector('yolov5', 5, seed=2)
    content = make_content(old)
    given = dict(content['state_dict'])
    receipt = adapt(content, new, 'x.pth', THEIRS[::-1])
    assert all(content['state_dict'][k] is given[k] for k in given)
    (note,) = receipt.notes
    assert note.startswith('classes [')


def test_half_precision_and_classes_that_are_no_names():
    old, new = Detector('yolov5', 5, seed=1), Detector('yolov5', 4, seed=2)
    content = make_content(old.half())
    start(content, new)
    assert new.read()[0][0].dtype == torch.float32
    bias = new.bbox_head.head_module.convs_pred[0].bias.view(3, 9)
    torch.testing.assert_close(
        bias[:, 5],
        old.bbox_head.head_module.convs_pred[0].bias.view(3, 10)[:, 7].float(),
    )
    content['meta'] = dict(dataset_meta=dict(classes=5))
    with pytest.raises(
        UserError, match='^x.pth: meta.dataset_meta.classes: .* no list'
    ):
        adapt(content, new, 'x.pth', OURS, True)


# ------------------------------------------------------------------------- a training

numbers = count()


class Learner(BaseModel):
    """A detector whose loss teaches it nothing."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        detector = Detector('yolov5', classes, seed)
        self.backbone, self.bbox_head = detector.backbone, detector.bbox_head

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=0 * sum(p.sum() for p in self.parameters()))


class Data(list):
    """One batch of images of the given classes."""

    def __init__(self, classes) -> None:
        super().__init__([dict(inputs=torch.ones(1), data_samples=None)])
        self.metainfo = dict(classes=tuple(classes))


def make_runner(folder: Path, model, classes, load_from, resume=False, test=False):
    data = DataLoader(Data(classes), collate_fn=itemgetter(0))
    training = dict(
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        resume=resume,
    )
    testing = dict(test_dataloader=data, test_cfg={}, test_evaluator=[])
    return Runner(
        model,
        str(folder),
        **(testing if test else training),
        custom_hooks=[dict(type='CheckpointFitHook'), dict(type='StepEMAHook')],
        load_from=str(load_from),
        experiment_name=f'classes_{next(numbers)}',
    )


def test_a_training_starts_from_a_checkpoint_with_other_classes(tmp_path):
    old = Detector('yolov5', 5, seed=1)
    torch.save(make_content(old), tmp_path / 'old.pth')
    content = make_content(old)
    reference = Detector('yolov5', 4, seed=2)
    # MMEngine initialises a model before it loads a file.
    torch.manual_seed(5)
    reference.bbox_head.init_weights()
    start(content, reference)
    model = Learner(4, seed=2)
    runner = make_runner(tmp_path / 'a', model, OURS, tmp_path / 'old.pth')
    torch.manual_seed(5)
    runner.train()
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'a' / 'epoch_1.pth'))
    for key, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        for name, value in reference.state_dict().items():
            if 'convs_pred' in name:
                torch.testing.assert_close(saved[key][prefix + name], value)
    log = next((tmp_path / 'a').glob('*/*.log')).read_text()
    assert '  classes: kept dog, person, bird; new: tree; left out: 2 of the' in log

    other = Learner(4, seed=2)
    for start_it in (
        make_runner(
            tmp_path / 'b', other, OURS, tmp_path / 'old.pth', resume=True
        ).train,
        make_runner(tmp_path / 'c', other, OURS, tmp_path / 'old.pth', test=True).test,
    ):
        with pytest.raises(UserError, match='the weights do not fit, and all must'):
            start_it()
