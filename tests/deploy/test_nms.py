"""NMS of the runtime and in exported files, where nearly every cell has a box."""

import mmnextvit  # noqa: F401  (first)
from mmnextvit import runtime
from mmnextvit.deploy import torchscript

import numpy as np
import pytest
import torch
from torchvision.ops import nms as torchvision_nms

LIMITS = dict(score_thr=0.05, iou_threshold=0.6, max_per_img=40)


def candidates(count, classes=3, side=40, steps=None):
    """Boxes (N, 4) and scores (N, C), of so many different values, in float32."""
    rng = np.random.default_rng(count + side)
    start = rng.uniform(0, 600, (count, 2))
    boxes = np.hstack([start, start + rng.uniform(1, side, (count, 2))])
    scores = rng.random((count, classes))
    scores = (scores * steps).round() / steps if steps else scores
    return boxes.astype(np.float32), scores.astype(np.float32)


def candidates_in_places(count, places, best=200, best_places=5):
    """Candidates of a class on so many places, the best of them on few."""
    rng = np.random.default_rng(count)
    place = rng.integers(places, size=count)
    scores = np.sort(rng.uniform(0.1, 1, (count, 1)), 0)[::-1]
    place[:best] %= best_places
    start = np.stack([place % 10, place // 10], 1) * 50 + rng.random((count, 2))
    order = rng.permutation(count)
    boxes = np.hstack([start, start + 30])[order]
    return boxes.astype(np.float32), scores[order].astype(np.float32)


def list_pairs(scores, multi_label, nms_pre=None):
    """Rows and labels above the minimum score, by falling score, the first first."""
    wanted = scores > LIMITS['score_thr']
    if not multi_label:
        wanted &= np.arange(scores.shape[1]) == scores.argmax(1)[:, None]
    rows, labels = wanted.nonzero()
    order = np.argsort(-scores[rows, labels], kind='stable')[:nms_pre]
    return rows[order], labels[order]


def torchvisions(boxes, scores, rows, labels):
    """What torchvision keeps of all pairs, class by class."""
    boxes, scores = torch.tensor(boxes[rows]), torch.tensor(scores[rows, labels])
    kept = []
    for label in np.unique(labels):
        mine = torch.tensor((labels == label).nonzero()[0])
        kept.append(mine[torchvision_nms(boxes[mine], scores[mine], 0.6)])
    return torch.cat(kept).sort()[0].numpy()[:40] if kept else np.arange(0)


def one_after_the_other(boxes, scores, rows, labels):
    """The same without torchvision, in single precision as it is."""
    kept = []
    for i, (row, label) in enumerate(zip(rows, labels)):
        if len(kept) == LIMITS['max_per_img']:
            break
        rivals = boxes[[rows[k] for k in kept if labels[k] == label]].reshape(-1, 4)
        low = np.maximum(boxes[row, :2], rivals[:, :2])
        high = np.minimum(boxes[row, 2:], rivals[:, 2:])
        common = np.prod((high - low).clip(min=0), 1)
        area, areas = (
            np.prod(b[..., 2:] - b[..., :2], -1) for b in (boxes[row], rivals)
        )
        if not (common / (area + areas - common) > 0.6).any():
            kept.append(i)
    return np.array(kept, int)


CASES = {
    'one class': dict(count=9000, classes=1),
    'three classes': dict(count=3000),
    'ties': dict(count=3000, steps=9),
    'all the same score': dict(count=3000, steps=1),
    'many classes': dict(count=300, classes=90, side=300),
    'few kept': dict(count=9000, places=100),
    'fewer than wanted': dict(count=9000, places=30),
    'hardly any': dict(count=20),
    'one': dict(count=1, classes=1),
    'none': dict(count=0),
}


def make(case):
    options = CASES[case]
    return (candidates_in_places if 'places' in options else candidates)(**options)


@pytest.fixture
def handed(monkeypatch):
    """How many detections each try of the runtime, or of TorchScript's, looks at."""
    counts = []
    for module in (runtime.nms, torchscript):
        keep = module.keep_best

        def count(found, *args, keep=keep):
            counts.append(len(found[0]) if isinstance(found, tuple) else len(found))
            return keep(found, *args)

        monkeypatch.setattr(module, 'keep_best', count)
    return counts


def check_tries(case, counts, total):
    if case == 'few kept':
        assert counts == [160, 581]
    elif case == 'fewer than wanted':
        assert counts == [160, 581, 1162, 2324, 4648, 9000]
    else:
        assert counts in ([min(total, 160)], [] if total == 0 else None)


@pytest.mark.parametrize('multi_label', [True, False])
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('nms_pre', [None, 700])
def test_the_runtimes_is_that_of_all(case, multi_label, nms_pre, handed):
    boxes, scores = make(case)
    nms = dict(LIMITS, multi_label=multi_label, nms_pre=nms_pre)
    found = runtime.suppress(boxes, scores, nms)
    rows, labels = list_pairs(scores, multi_label, nms_pre)
    kept = torchvisions(boxes, scores, rows, labels)
    assert kept.tolist() == one_after_the_other(boxes, scores, rows, labels).tolist()
    assert (
        len(kept) == 40 or case in ('few kept', 'fewer than wanted') or len(rows) < 60
    )
    rows, labels = rows[kept], labels[kept]
    for ours, wanted in zip(found, (boxes[rows], scores[rows, labels], labels)):
        assert ours.dtype == wanted.dtype and np.array_equal(ours, wanted)
    total = len(list_pairs(scores, multi_label, nms_pre)[0])
    if nms_pre is None:
        check_tries(case, handed, total)


@pytest.mark.parametrize('case', CASES)
def test_torchscripts_is_that_of_all(case, handed):
    boxes, scores = make(case)
    rows, labels = list_pairs(scores, multi_label=True)
    given = [torch.tensor(x)[None] for x in (boxes, scores)]
    outputs = torchscript.suppress(*given, 0.05, 0.6, 40)
    total = len(rows)
    kept = torchvisions(boxes, scores, rows, labels)
    rows, labels = rows[kept], labels[kept]
    (number,), *found = (x[0].numpy() for x in outputs)
    assert number == len(kept)
    for ours, wanted in zip(found, (boxes[rows], scores[rows, labels], labels)):
        assert np.array_equal(ours[:number], wanted)
    check_tries(case, handed, total)


@pytest.mark.parametrize('case', ['ties', 'few kept', 'none'])
def test_torchscripts_is_the_same_as_a_script(case):
    given = [torch.tensor(x)[None] for x in make(case)]
    script = torch.jit.script(torchscript.suppress)
    outputs = [run(*given, 0.05, 0.6, 40) for run in (script, torchscript.suppress)]
    for ours, wanted in zip(*outputs):
        assert torch.equal(ours, wanted)


def test_the_runtime_compares_blocks_alone(monkeypatch):
    """Never all pairs of boxes, and none of what follows the last that is kept."""
    sizes = []
    find = runtime.find_overlaps

    def count(found, better, others, threshold):
        sizes.append((len(better), len(others)))
        return find(found, better, others, threshold)

    monkeypatch.setattr(runtime.nms, 'find_overlaps', count)
    boxes, scores = candidates(25_200)
    found = runtime.suppress(boxes, scores, dict(LIMITS, multi_label=True))
    assert len(found.scores) == 40
    assert sizes == [(0, 128), (128, 128)]


@pytest.mark.parametrize('width, threshold', [(3, 0.3), (6, 0.6)])
def test_an_overlap_of_just_the_threshold_suppresses_nothing(width, threshold):
    """As of mmcv's NMS, whose threshold is as exact as the overlaps."""
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, width, 10]]], dtype=torch.float32)
    scores = torch.tensor([[[0.9], [0.8]]])
    nms = dict(score_thr=0.1, iou_threshold=threshold, max_per_img=9)

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return boxes, scores

    assert torchscript.WithNMS(Fixed(), nms)(torch.zeros(1))[0] == 2
