"""Which passes CUDA graphs replay; the graphs themselves are tested where a GPU is."""

import copy
import gc
import weakref
from types import SimpleNamespace

from mmnextvit.models import graphs
from mmnextvit.models.graphs import (
    AFTER,
    MAX_GRAPHS,
    GraphedMaps,
    can_capture,
    capture_cuda_graph,
    drop_graphs,
    is_alike,
    use_graphs,
)
from mmnextvit.models.shapes import MAX_KNOWN, FixedShapes

import pytest
import torch
from torch import nn


class Net(nn.Module):
    """A detector's backbone and neck in small, which counts its passes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, 4, 3)
        self.passes = 0

    def extract_feat(self, x):
        self.passes += 1
        y = self.backbone(x)
        return y.relu(), y.mean((2, 3))

    def forward(self, x):
        return self.extract_feat(x)


class Stand:
    """Stands in for the capture: a call that reads static memory, as a graph does."""

    def __init__(self, error=None, wrong=False):
        self.captured, self.replayed = [], 0
        self.error, self.wrong = error, wrong

    def __call__(self, call, images):
        if self.error is not None:
            raise self.error
        self.captured.append(tuple(images.shape))
        given = images.clone()

        def replay(images):
            self.replayed += 1
            given.copy_(images)
            maps = tuple(y.clone() for y in call(given))
            return tuple(y + 1 for y in maps) if self.wrong else maps

        return replay


@pytest.fixture
def graphed(monkeypatch):
    """A network whose graphs a stand-in makes, and that take the seconds given."""

    def make(stand, seconds=(1.0, 0.5), applies=lambda model, x: not model.training):
        times = iter(seconds * 100)
        monkeypatch.setattr(GraphedMaps, '_time', lambda *args: next(times))

        def build(extract):
            return GraphedMaps(extract, stand, applies, wait=lambda: None)

        return use_graphs(Net().eval(), {}, build)

    return make


def images(side=8, count=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=g)


def test_a_shape_that_comes_again_is_replayed(graphed):
    stand = Stand()
    net, plain = graphed(stand), Net().eval()
    for i in range(AFTER):
        net(images(seed=i))
    assert not stand.captured
    for i in range(3):
        x = images(seed=10 + i)
        for a, b in zip(net(x), plain(x), strict=True):
            assert torch.equal(a, b)
    assert stand.captured == [(1, 3, 8, 8)] and stand.replayed == 1 + 3


def test_there_are_only_so_many(graphed):
    stand = Stand()
    net = graphed(stand)
    for side in range(8, 8 + 3 * MAX_GRAPHS):
        for _ in range(AFTER + 2):
            net(images(side))
    assert stand.captured == [(1, 3, 8 + i, 8 + i) for i in range(MAX_GRAPHS)]


def test_shapes_that_differ_wait_for_nothing(graphed):
    stand = Stand()
    net = graphed(stand)
    for side in range(8, 40):
        net(images(side))
    assert not stand.captured and net.passes == 32


class Log(list):
    def __call__(self, message, **kwargs):
        self.append(message)


@pytest.fixture
def said(monkeypatch):
    log = Log()
    monkeypatch.setattr(graphs, 'print_log', log)
    return log


@pytest.mark.parametrize(
    'stand, seconds, message',
    [
        (Stand(RuntimeError('operation not permitted')), (1.0, 0.5), 'not permitted'),
        (Stand(torch.OutOfMemoryError('no memory')), (1.0, 0.5), 'no memory'),
        (Stand(wrong=True), (1.0, 0.5), 'other values'),
        (Stand(), (1.0, 0.95), 'they are used'),
    ],
    ids=['captured not', 'memory', 'wrong', 'slow'],
)
def test_without_a_graph_the_layers_go_on(stand, seconds, message, graphed, said):
    """It is tried once, and told of once."""
    net, plain = graphed(stand, seconds), Net().eval()
    for i in range(AFTER + 4):
        x = images(seed=i)
        for a, b in zip(net(x), plain(x), strict=True):
            assert torch.equal(a, b)
    assert len(said) == 1 and message in said[0] and '1x3x8x8' in said[0]
    assert len(stand.captured) <= 1


def test_another_error_is_not_hidden(graphed):
    net = graphed(Stand(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        for _ in range(AFTER + 1):
            net(images())


def test_hooks_of_layers_are_called(graphed):
    stand, seen = Stand(), []
    net = graphed(stand)
    for _ in range(AFTER + 2):
        net(images())
    replayed = stand.replayed
    handle = net.backbone.register_forward_hook(lambda *args: seen.append(1))
    net(images())
    assert seen == [1] and stand.replayed == replayed
    handle.remove()
    net(images())
    assert stand.replayed == replayed + 1


def test_what_a_graph_takes_for_granted_makes_another(graphed):
    """Batch, precision and inference mode; the format; the place of the weights."""
    stand = Stand()
    net = graphed(stand)

    def often(x):
        for _ in range(AFTER + 1):
            net(x)

    often(images())
    often(images(count=2))
    assert len(stand.captured) == 2
    with torch.autocast('cpu', torch.bfloat16):
        often(images())
    assert len(stand.captured) == 3
    with torch.inference_mode():
        often(images())
    assert len(stand.captured) == 4 == MAX_GRAPHS

    stand = Stand()
    net = graphed(stand)
    often(images())
    often(images().contiguous(memory_format=torch.channels_last))
    net.backbone.weight.data = 2 * net.backbone.weight.data
    often(images())
    assert len(stand.captured) == 3
    plain = Net().eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(images())[0], plain(images())[0])


def test_a_copy_computes_with_its_own_weights(graphed):
    net = graphed(Stand())
    for _ in range(AFTER + 2):
        net(images())
    copied = copy.deepcopy(net)
    copied.backbone.weight.data *= -1
    plain = Net().eval()
    plain.backbone.weight.data *= -1
    for _ in range(AFTER + 2):
        assert torch.equal(copied(images())[0], plain(images())[0])


def test_taken_off_the_model_is_freed_at_once(graphed):
    net = graphed(Stand())
    drop_graphs(net)
    assert net.extract_feat.__func__ is Net.extract_feat
    drop_graphs(net)
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_a_config_can_do_without():
    net = Net()
    assert 'extract_feat' not in vars(use_graphs(net, dict(cuda_graphs=False)))
    assert use_graphs(nn.Conv2d(1, 1, 1), {})  # it has no extract_feat
    assert 'extract_feat' in vars(use_graphs(net, {}))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('grad', [True, False])
@pytest.mark.parametrize('cuda', [True, False])
def test_only_inference_on_a_gpu_is_captured(training, grad, cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    x = SimpleNamespace(is_cuda=cuda)
    with torch.set_grad_enabled(grad):
        expected = cuda and not training and not grad
        assert can_capture(Net().train(training), x) is expected


@pytest.mark.parametrize(
    'change, expected',
    [
        (lambda y: y * 1.001, True),
        (lambda y: y * 1.1, False),
        (lambda y: y.double(), False),
        (lambda y: y[..., :-1], False),
        (lambda y: y * torch.nan, False),
    ],
)
def test_what_counts_as_rounding(change, expected):
    y = images()
    assert is_alike((change(y),), (y,)) is expected


def test_few_shapes_are_fixed_and_few_counted():
    shapes = FixedShapes(max_shapes=2, after=2)
    assert [shapes.is_fixed('a') for _ in range(4)] == [False, False, True, True]
    for i in range(2 * MAX_KNOWN):
        assert not shapes.is_fixed(i)
    assert len(shapes._seen) == MAX_KNOWN
    assert [shapes.is_fixed(7) for _ in range(2)] == [False, True]
    assert not any(shapes.is_fixed(8) for _ in range(5))


@pytest.mark.cuda
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16])
def test_a_captured_graph_gives_what_the_layers_give(dtype):
    net = Net().eval().cuda()
    for i in range(3):
        x = images(side=64, seed=i).cuda()
        with torch.no_grad(), torch.autocast('cuda', dtype, enabled=dtype is not None):
            replay = capture_cuda_graph(net.extract_feat, x)
            for seed in (7, 8):
                y = images(side=64, seed=seed).cuda()
                assert is_alike(replay(y), net.extract_feat(y))
            first = replay(x)
            kept = [m.clone() for m in first]
            replay(2 * x)
            assert all(torch.equal(a, b) for a, b in zip(first, kept))


@pytest.mark.cuda
def test_what_cannot_be_captured_falls_back(said):
    class Asks(Net):
        def extract_feat(self, x):
            maps = super().extract_feat(x)
            return maps if maps[1].sum().item() > -1e9 else maps[::-1]

    net = use_graphs(Asks().eval().cuda(), {})
    with torch.no_grad():
        results = [net(images().cuda())[0] for _ in range(AFTER + 3)]
    assert all(torch.equal(r, results[0]) for r in results) and len(said) == 1
    torch.cuda.synchronize()


@pytest.mark.cuda
def test_a_graph_is_used_where_it_pays(said, tiny):
    from mmnextvit import NextViT

    class Detector(Net):
        def __init__(self):
            super().__init__()
            self.backbone = NextViT(tiny)

        def extract_feat(self, x):
            return self.backbone(x)

    net = Detector().eval().cuda()
    expected = Detector().eval().cuda()
    expected.load_state_dict(net.state_dict())
    use_graphs(net, {})
    with torch.no_grad():
        for i in range(AFTER + 3):
            x = images(side=64, seed=i).cuda()
            assert is_alike(net(x), expected(x))
    assert 'it is used' in said[0]
