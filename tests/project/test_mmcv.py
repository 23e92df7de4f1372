"""The stand-in ops against plain references, and mmcv in every state it can be in."""

import math
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import mmnextvit  # noqa: F401  (puts the stand-in in place)
from mmnextvit.utils.errors import find_user_error

import mmcv.ops
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.warm_python import run_python

ROOT = Path(__file__).parents[2]
DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
SAYS_STAND_IN = "mmnextvit uses torchvision's NMS and average RoIAlign"
SAYS_COMPILED = 'mmnextvit uses the compiled ops of mmcv'


# NMS


def plain_nms(boxes, scores, threshold, offset):
    """The boxes by falling score, less those that a better kept one overlaps."""
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        for j in kept:
            x1, y1 = np.maximum(boxes[i, :2], boxes[j, :2])
            x2, y2 = np.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)
            area_i, area_j = (
                (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
                for b in (boxes[i], boxes[j])
            )
            if inter / (area_i + area_j - inter) > threshold:
                break
        else:
            kept.append(int(i))
    return kept


def random_boxes(n, dtype, integer):
    rng = np.random.default_rng(n)
    corner, size = rng.uniform(0, 60, (n, 2)), rng.uniform(1, 40, (n, 2))
    boxes = torch.tensor(np.hstack([corner, corner + size]))
    boxes = boxes.round() if integer else boxes
    scores = torch.tensor(rng.permutation(n) / 256 + 0.1)  # distinct in bfloat16 too
    return boxes.to(dtype), scores.to(dtype)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.8])
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_nms_equals_plain_nms(dtype, threshold, offset, device):
    # Whole numbers are exact in every type, up to the bfloat16 range of 256.
    for integer in (True, False):
        boxes, scores = random_boxes(100, dtype, integer)
        want = plain_nms(
            boxes.double().numpy(), scores.double().numpy(), threshold, offset
        )
        dets, kept = mmcv.ops.nms(
            boxes.to(device), scores.to(device), threshold, offset=offset
        )
        assert 1 < len(want) < 100
        assert kept.tolist() == want
        assert dets.dtype == dtype and dets.device.type == device
        assert torch.equal(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[want])


@pytest.mark.parametrize('device', DEVICES)
def test_nms_offset(device):
    # Whole-pixel boxes: 36/81 of the larger without the offset, 50/100 with it.
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert mmcv.ops.nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, 0.45, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_an_overlap_of_just_the_threshold(tenths, dtype, device):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]]).to(device, dtype)
    scores = torch.tensor([0.9, 0.8]).to(device, dtype)
    assert mmcv.ops.nms(boxes, scores, tenths / 10)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, tenths / 10 - 1e-6)[1].tolist() == [0]


@pytest.mark.parametrize('device', DEVICES)
def test_nms_of_nothing_and_per_class(device):
    none = torch.zeros(0, 4, device=device)
    for offset in (0, 1):
        dets, kept = mmcv.ops.nms(none, none[:, 0], 0.5, offset=offset)
        assert dets.shape == (0, 5) and kept.shape == (0,)
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.7], device=device)
    classes = torch.tensor([0, 1, 0], device=device)
    cfg = dict(type='nms', iou_threshold=0.5)
    assert mmcv.ops.batched_nms(boxes, scores, classes, cfg)[1].tolist() == [1, 2]


# Soft-NMS


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset=0):
    """Soft-NMS by its paper, box by box: the kept ones' indices and new scores.

    Args:
        boxes: N 4, numbers.
        scores: N, numbers.
    """
    left, found = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        found.append((best, left.pop(best)))
        a = boxes[best]
        for i in list(left):
            b = boxes[i]
            width = min(a[2], b[2]) - max(a[0], b[0]) + offset
            height = min(a[3], b[3]) - max(a[1], b[1]) + offset
            common = max(width, 0) * max(height, 0)
            area, other = (
                (x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b)
            )
            overlap = common / (area + other - common) if common else 0
            if method == 'gaussian':
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == 'linear' else 0
            if left[i] < min_score:
                del left[i]
    return found


# What MMCV publishes for four boxes: which are kept, and their scores.
FOUR_BOXES = [(6, 3, 8, 7), (3, 6, 9, 11), (3, 7, 10, 12), (1, 4, 13, 7)]
FOUR_SCORES = [0.6, 0.9, 0.7, 0.2]
PUBLISHED = {
    'linear': {1: 0.9, 0: 0.6, 2: 0.29024392, 3: 0.2},
    'gaussian': {1: 0.9, 0: 0.59630775, 2: 0.35275510, 3: 0.18650459},
    'naive': {1: 0.9, 0: 0.6, 3: 0.2},
}


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('method', PUBLISHED)
def test_soft_nms_as_mmcv_publishes_it(method, device):
    boxes = torch.tensor(FOUR_BOXES, dtype=torch.float32, device=device)
    scores = torch.tensor(FOUR_SCORES, device=device)
    want = PUBLISHED[method]
    found = plain_soft_nms(FOUR_BOXES, FOUR_SCORES, 0.3, 0.5, 0.01, method)
    assert dict(found) == pytest.approx(want, abs=1e-7)
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, 0.01, method)
    assert kept.tolist() == list(want) and kept.device.type == device
    assert torch.equal(dets[:, :4], boxes[kept]) and dets.device.type == device
    assert dets[:, 4].tolist() == pytest.approx(list(want.values()), abs=1e-7)
    assert scores.tolist() == pytest.approx(FOUR_SCORES)  # nothing is written into them


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('min_score', [0.001, 0.15])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', PUBLISHED)
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_soft_nms_equals_plain_soft_nms(dtype, method, offset, min_score, device):
    boxes, scores = random_boxes(60, dtype, integer=True)
    settings = 0.3, 0.7, min_score, method, offset
    want = plain_soft_nms(boxes.tolist(), scores.tolist(), *settings)
    dets, kept = mmcv.ops.soft_nms(boxes.to(device), scores.to(device), *settings)
    assert len(want) > 5 and (len(want) < 60 or method != 'naive')
    assert kept.tolist() == [i for i, _ in want]
    assert dets.dtype == dtype and torch.equal(dets[:, :4].cpu(), boxes[kept.cpu()])
    tolerance = 8 * torch.finfo(dtype).eps
    assert dets[:, 4].tolist() == pytest.approx([s for _, s in want], tolerance)


@pytest.mark.parametrize('method', PUBLISHED)
def test_soft_nms_of_few_boxes(method):
    def suppress(boxes, scores):
        given = torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores)
        dets, kept = mmcv.ops.soft_nms(*given, min_score=0.1, method=method)
        return dets.tolist(), kept.tolist()

    assert suppress([], []) == ([], [])
    box = [1.0, 2.0, 3.0, 5.0]
    assert suppress(box, [0.5]) == ([[*box, 0.5]], [0])
    # The best one stays, as in mmcv.
    assert suppress(box, [0.0]) == ([[*box, 0.0]], [0])
    empty = [2.0, 2.0, 2.0, 2.0]  # overlaps nothing, not even itself
    assert suppress([empty, empty], [0.5, 0.5])[1] == [0, 1]
    arrays = np.float32([box]), np.float32([0.5])
    dets, kept = mmcv.ops.soft_nms(*arrays, method=method)
    assert isinstance(dets, np.ndarray) and kept.tolist() == [0]


@pytest.mark.parametrize('split', [10000, 10])
def test_soft_nms_by_classes(split):
    boxes, scores = random_boxes(80, torch.float32, integer=True)
    classes = torch.arange(80) % 3
    want = []
    for c in range(3):
        members = torch.nonzero(classes == c)[:, 0].tolist()
        settings = 0.4, 0.5, 0.05, 'linear'
        found = plain_soft_nms(
            boxes[members].tolist(), scores[members].tolist(), *settings
        )
        want += [(members[i], score) for i, score in found]
    want.sort(key=lambda pair: -pair[1])
    cfg = dict(type='soft_nms', iou_threshold=0.4, min_score=0.05, split_thr=split)
    dets, kept = mmcv.ops.batched_nms(boxes, scores, classes, cfg)
    assert kept.tolist() == [i for i, _ in want]
    assert dets[:, 4].tolist() == pytest.approx([s for _, s in want], 1e-5)
    assert torch.equal(dets[:, :4], boxes[kept])
    assert (dets[:, 4] < scores[kept] - 0.01).any()


# RoIAlign


def plain_roi_align_weights(roi, shape, out, scale, ratio, aligned):
    """How much each cell of the map counts in each bin: out out H W."""
    weights = np.zeros((out, out, *shape))
    x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in roi)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1), max(height, 1)
    rows = ratio or math.ceil(height / out)
    columns = ratio or math.ceil(width / out)
    for i, j, u, v in np.ndindex(out, out, rows, columns):
        y = y1 + height / out * (i + (u + 0.5) / rows)
        x = x1 + width / out * (j + (v + 0.5) / columns)
        if not (-1 <= y <= shape[0] and -1 <= x <= shape[1]):
            continue  # a sample outside the map counts as zero
        y, x = np.clip((y, x), 0, np.subtract(shape, 1))  # the border value beyond it
        top, left = int(y), int(x)
        for dy, dx in np.ndindex(2, 2):
            weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
            if weight > 0:
                weights[i, j, top + dy, left + dx] += weight / (rows * columns)
    return weights


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_equals_plain_roi_align(aligned, ratio, dtype, device):
    scale, out = 0.25, 3
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 2, 9, 11))).to(dtype)
    rois = torch.tensor(  # inside, over the edges, all of it, empty, far outside
        [
            [0, 4, 6, 30, 25],
            [1, -9, 20, 12, 44],
            [1, 0, 0, 44, 36],
            [0, 8, 8, 8, 8],
            [0, 200, 200, 240, 240],
        ]
    ).to(dtype)
    grad = torch.tensor(rng.normal(size=(len(rois), 2, out, out))).to(dtype)

    weights = np.stack(
        [
            plain_roi_align_weights(
                roi[1:].tolist(), (9, 11), out, scale, ratio, aligned
            )
            for roi in rois.double()
        ]
    )
    images = rois[:, 0].long().numpy()
    want = np.einsum('kijhw,kchw->kcij', weights, x.double().numpy()[images])
    want_grad = np.zeros(x.shape)
    parts = np.einsum('kijhw,kcij->kchw', weights, grad.double().numpy())
    np.add.at(want_grad, images, parts)

    x = x.to(device).requires_grad_()
    align = mmcv.ops.RoIAlign(out, scale, ratio, aligned=aligned)
    got = align(x, rois.to(device))
    got.backward(grad.to(device))
    tolerance = 8 * torch.finfo(dtype).eps
    assert got.dtype == x.grad.dtype == dtype
    for ours, reference in (got, want), (x.grad, want_grad):
        assert np.abs(reference).max() > 0.5
        ours = ours.detach().cpu().double().numpy()
        np.testing.assert_allclose(ours, reference, tolerance, tolerance)


def test_roi_align_of_nothing():
    x = torch.ones(1, 2, 8, 8, requires_grad=True)
    got = mmcv.ops.roi_align(x, torch.zeros(0, 5), (3, 3))
    got.sum().backward()
    assert got.shape == (0, 2, 3, 3) and not x.grad.any()


# Deformable convolution and attention


def sample(plane, y, x):
    """The bilinear value of a plane, H W, at a point; 0 outside of it."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for v, u in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= v < plane.shape[0] and 0 <= u < plane.shape[1]:
            total += plane[v, u] * (1 - abs(y - v)) * (1 - abs(x - u))
    return total


def plain_deform_conv(x, weight, offset, mask, bias, stride, pad, dilation, parts):
    """The sum over channels and taps of what lies where the offsets say, by its paper.

    Args:
        x: B C H W.
        weight: K C/groups h w.
        offset: B 2*parts*h*w H' W', y and x by turns.
        mask: B parts*h*w H' W'.
        parts: how many parts of the channels have offsets of their own.
    """
    batch, channels, *_ = x.shape
    out, depth, height, width = weight.shape
    rows, columns = offset.shape[2:]
    result = np.zeros((batch, out, rows, columns)) + bias[:, None, None]
    for b, k, c, i, j in np.ndindex(batch, out, depth, rows, columns):
        group = k * (channels // depth) // out
        channel = group * depth + c
        part = channel * parts // channels
        for v, u in np.ndindex(height, width):
            tap = (part * height + v) * width + u
            dy, dx = offset[b, 2 * tap : 2 * tap + 2, i, j]
            y = i * stride[0] - pad[0] + v * dilation[0] + dy
            x_ = j * stride[1] - pad[1] + u * dilation[1] + dx
            value = sample(x[b, channel], y, x_) * mask[b, tap, i, j]
            result[b, k, i, j] += weight[k, c, v, u] * value
    return result


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize('kind', ['plain', 'modulated', 'modulated with bias'])
def test_deform_conv_equals_plain_deform_conv(kind, dtype, device):
    geometry = (2, 1), (1, 2), (1, 2)  # stride, padding, dilation
    rng = np.random.default_rng(0)
    shapes = dict(x=(2, 4, 5, 6), offset=(2, 24, 3, 8), weight=(2, 2, 3, 2))
    shapes |= dict(mask=(2, 12, 3, 8), bias=(2,))
    given = {k: torch.tensor(rng.normal(size=s)).to(dtype) for k, s in shapes.items()}
    if kind == 'plain':
        given['mask'] = torch.ones_like(given['mask'])
    if kind != 'modulated with bias':
        given['bias'] = torch.zeros_like(given['bias'])
    parts = {k: v.clone().to(device).requires_grad_() for k, v in given.items()}
    args = [parts[name] for name in ('x', 'offset', 'mask', 'weight', 'bias')]
    if kind == 'plain':
        names, convolve = ('x', 'offset', 'weight'), mmcv.ops.deform_conv2d
        got = convolve(args[0], args[1], args[3], *geometry, 2, 2)
    else:
        names, convolve = (
            ('x', 'offset', 'mask', 'weight'),
            mmcv.ops.modulated_deform_conv2d,
        )
        if kind == 'modulated':
            args[4] = None
        else:
            names += ('bias',)
        got = convolve(*args, *geometry, 2, 2)

    def compute(**changed):
        values = {k: v.double().numpy() for k, v in given.items()} | changed
        names = 'x', 'weight', 'offset', 'mask', 'bias'
        return plain_deform_conv(*(values[n] for n in names), *geometry, 2)

    assert got.dtype == dtype and got.shape == (2, 2, 3, 8)
    tolerance = 50 * torch.finfo(dtype).eps
    ours = got.detach().cpu().double().numpy()
    np.testing.assert_allclose(ours, compute(), tolerance, tolerance)
    direction = torch.tensor(rng.normal(size=got.shape)).to(dtype)
    got.backward(direction.to(device))
    if dtype != torch.float64:
        return
    for name in names:  # each gradient along one way, by a difference
        way = rng.normal(size=given[name].shape)
        base, step = given[name].numpy(), 1e-6
        ahead, behind = (
            compute(**{name: base + sign * step * way}) for sign in (1, -1)
        )
        slope = ((ahead - behind) / (2 * step) * direction.numpy()).sum()
        found = (parts[name].grad.cpu().numpy() * way).sum()
        assert found == pytest.approx(slope, rel=1e-5) and abs(slope) > 0.1


@pytest.mark.parametrize('device', DEVICES)
def test_modulated_deform_conv_takes_larger_maps_for_those_of_the_output(device):
    # mmcv's kernels find a number by the output's height and width, whatever the maps'
    # are. So it is with MMDetection's DyHead, that gives the maps of another level.
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(3, 2, 3, 3))
    offset, mask = rng.normal(size=(2, 18, 6, 8)), rng.uniform(size=(2, 9, 6, 8))
    read = [
        np.stack([image.reshape(-1)[: n * 12].reshape(n, 3, 4) for image in maps])
        for n, maps in ((18, offset), (9, mask))
    ]
    want = plain_deform_conv(x, weight, *read, np.zeros(3), (1, 1), (1, 1), (1, 1), 1)
    given = [torch.tensor(v, device=device) for v in (x, offset, mask, weight)]
    leaves = [v.requires_grad_() for v in given]
    got = mmcv.ops.modulated_deform_conv2d(*leaves, None, 1, 1)
    np.testing.assert_allclose(got.detach().cpu().numpy(), want, 1e-12, 1e-12)
    got.sum().backward()
    for n, leaf in ((18, leaves[1]), (9, leaves[2])):
        slopes = leaf.grad.flatten(1)
        assert slopes[:, : n * 12].any() and not slopes[:, n * 12 :].any()


@pytest.mark.parametrize('device', DEVICES)
def test_deformable_attention_equals_plain_attention(device):
    sizes = [(3, 4), (2, 2)]
    rng = np.random.default_rng(0)
    value = rng.normal(size=(2, 16, 2, 3))  # images, cells, heads, channels
    places = rng.uniform(-0.1, 1.1, (2, 5, 2, 2, 3, 2))
    weights = rng.uniform(size=(2, 5, 2, 2, 3))
    want = np.zeros((2, 5, 2, 3))
    for b, q, h, level, p, c in np.ndindex(2, 5, 2, 2, 3, 3):
        (height, width), start = sizes[level], (0, 12)[level]
        cells = value[b, start : start + height * width, h, c].reshape(height, width)
        x, y = places[b, q, h, level, p]
        found = sample(cells, y * height - 0.5, x * width - 0.5)
        want[b, q, h, c] += weights[b, q, h, level, p] * found

    given = [torch.tensor(x, device=device).requires_grad_() for x in (value, weights)]
    attend = mmcv.ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    locations = torch.tensor(places, device=device).requires_grad_()
    shapes = torch.tensor(sizes, device=device)
    starts = torch.tensor([0, 12], device=device)
    got = attend(given[0], shapes, starts, locations, given[1], 64)
    ours = got.detach().cpu().numpy().reshape(want.shape)
    np.testing.assert_allclose(ours, want, 1e-12, 1e-12)
    got.square().sum().backward()
    # The output is linear in either: its square's gradient is twice it, times it.
    for x in given:
        assert (x.grad * x).sum().item() == pytest.approx(2 * (want**2).sum())
    assert locations.grad.abs().max() > 0.1


# The focal loss, which MMDetection has compiled on GPUs


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_sigmoid_focal_loss_equals_plain_focal_loss(reduction, weighted, device):
    gamma, alpha = 1.5, 0.3
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 3)) * 3, np.array([0, 3, 1, 2, 3, 0, 2])
    weights = rng.uniform(0.5, 2, 3) if weighted else None
    want, slopes = np.zeros((7, 3)), np.zeros((7, 3))

    def loss(x, is_class):
        p = 1 / (1 + math.exp(-x))
        if is_class:
            return -alpha * (1 - p) ** gamma * math.log(p)
        return -(1 - alpha) * p**gamma * math.log(1 - p)

    for i, c in np.ndindex(7, 3):
        factor = weights[labels[i]] if weighted and labels[i] < 3 else 1
        x, is_class = logits[i, c], labels[i] == c
        want[i, c] = factor * loss(x, is_class)
        ahead, behind = loss(x + 1e-6, is_class), loss(x - 1e-6, is_class)
        slopes[i, c] = factor * (ahead - behind) / 2e-6
    assert {0, 1, 2, 3} == set(labels.tolist())  # 3 is the background

    x = torch.tensor(logits, device=device, requires_grad=True)
    weight = torch.tensor(weights, device=device) if weighted else None
    target = torch.tensor(labels, device=device)
    got = mmcv.ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)
    total = dict(none=want, mean=want.sum() / 7, sum=want.sum())[reduction]
    np.testing.assert_allclose(got.detach().cpu().numpy(), total, 1e-9)
    got.sum().backward()
    share = 7 if reduction == 'mean' else 1
    np.testing.assert_allclose(x.grad.cpu().numpy(), slopes / share, 1e-5, 1e-8)


# All other ops


def calls_of_other_ops():
    boxes, scores, x = torch.rand(3, 4), torch.rand(3), torch.rand(1, 2, 8, 8)
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    return {
        'nms_match': lambda: mmcv.ops.nms_match(
            torch.cat([boxes, scores[:, None]], 1), 0.5
        ),
        'carafe_forward': lambda: mmcv.ops.carafe(x, torch.rand(1, 9, 16, 16), 3, 1, 2),
        'roi_pool_forward': lambda: mmcv.ops.roi_pool(x, rois, (2, 2)),
        "roi_align_forward with pool_mode='max'": lambda: mmcv.ops.RoIAlign(
            2, pool_mode='max'
        )(x, rois),
    }


@pytest.mark.parametrize('name', calls_of_other_ops())
def test_other_ops_raise_when_called(name):
    with pytest.raises(NotImplementedError) as error:
        calls_of_other_ops()[name]()
    assert f"mmcv's op {name} needs compiled mmcv" in str(error.value)
    assert 'pip install --no-deps --no-build-isolation' in str(error.value)
    # A command ends with it, and without a traceback.
    assert str(find_user_error(error.value)) == str(error.value)


def test_what_else_is_not_implemented_keeps_its_traceback():
    assert find_user_error(NotImplementedError('an abstract method')) is None


@pytest.mark.filterwarnings('error:.*find_loader')
def test_what_looks_for_mmcvs_ops_needs_no_pkgutil(monkeypatch):
    """As on Python 3.14, where `pkgutil.find_loader` is gone; earlier ones warn."""
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.model import revert_sync_batchnorm
    from mmengine.utils.dl_utils import mmcv_full_available

    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    assert mmcv_full_available() and check_ops_exist()
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(4))
    assert type(revert_sync_batchnorm(model)[0]).__name__ == '_BatchNormXd'
    assert mmnextvit._mmcv._find_loader('mmcv._no_such_extension') is None


@pytest.mark.slow
def test_stand_in_is_an_ordinary_module():
    from mmcv.utils import collect_env
    from mmengine.utils.dl_utils import mmcv_full_available

    extension = sys.modules['mmcv._ext']
    assert extension.__spec__.loader is extension.__loader__
    assert not hasattr(extension, '__file__')  # what inspection asks of any module
    assert mmcv_full_available()  # mmcv.ops can be imported
    for key in ('MMCV Compiler', 'MMCV CUDA Compiler'):
        assert collect_env()[key] == 'n/a (mmnextvit._mmcv)'


# mmcv in other states, each in a fresh interpreter


def python(code, env=(), hide=(), warm=True):
    """Run `code` from the repository, as if the packages in `hide` were missing.

    Where it is not `warm`, nothing has been imported before.
    """
    hiding = f"""
import sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name in {hide!r} else super().find_spec(name, *args)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""
    command = sys.executable, '-c', hiding + code if hide else code
    env = {**os.environ, **dict(env)}
    if warm:
        return run_python(*command, cwd=ROOT, env=env)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def last_error(result):
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stderr.strip().splitlines()[-1]


def output(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_imports_without_torch():
    code = 'import sys, mmnextvit; print(mmnextvit.__version__, "mmcv" in sys.modules)'
    assert (
        output(python(code, hide=['torch'], warm=False))
        == f'{mmnextvit.__version__} False\n'
    )
    code = """
import mmnextvit
print(mmnextvit.__all__)
from mmnextvit import NextViT
"""
    names = ['__version__', 'config_file', 'fit_recipe', 'get_config', 'get_model']
    names.append('tune_recipe')
    result = python(code, hide=['torch'], warm=False)
    assert result.stdout == f'{names}\n'
    assert 'MissingPackageError: mmnextvit needs torch, which is' in last_error(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('package', 'command'),
    [('mmcv', 'pip install "mmnextvit[all]"'), ('mmdet', 'pip install mmdet')],
)
def test_missing_package_is_named_with_its_command(package, command):
    for code in ('from mmnextvit import NextViT', 'import mmnextvit, mmengine'):
        error = last_error(python(code, hide=[package]))
        name = 'mmnextvit.utils.errors.MissingPackageError'
        assert error.startswith(f'{name}: mmnextvit needs {package}')
        assert command in error
    # As `pip install mmnextvit` leaves it, without an extra.
    everything = ['mmengine', 'mmcv', 'mmdet']
    error = last_error(python('from mmnextvit import NextViT', hide=everything))
    assert error.startswith(f'{name}: mmnextvit needs mmengine, mmcv and mmdet')
    code = 'from mmnextvit.cli import main; main(None, ["compute_anchors", "x.py"'
    error = last_error(python(f'{code}, "-o", "y.py"])', hide=everything))
    text = 'mmnextvit compute_anchors: mmnextvit needs mmengine, mmcv and mmdet'
    assert error.startswith(text) and 'pip install "mmnextvit[all]"' in error
    output(python(f'{code}, "--help"])', hide=[package]))
    error = last_error(python(f'{code}, "-o", "y.py"])', hide=[package]))
    assert error.startswith('mmnextvit compute_anchors: mmnextvit needs')
    assert command in error


@pytest.mark.slow
def test_backbone_works_without_mmyolo():
    code = """
import mmnextvit, torch
from mmdet.registry import MODELS
maps = MODELS.build(dict(type='mmdet.NextViT'))(torch.rand(1, 3, 64, 64))
print(*[tuple(m.shape[1:]) for m in maps], 'mmyolo' in sys.modules)
from mmnextvit import FittedYOLODetector
"""
    result = python(code, hide=['mmyolo'])
    assert 'this needs MMYOLO, which is not installed' in last_error(result)
    code = code.replace('from mmnextvit import FittedYOLODetector', '')
    shapes = '(96, 16, 16) (256, 8, 8) (512, 4, 4) (1024, 2, 2) False\n'
    assert output(python(code, hide=['mmyolo'])).endswith(shapes)


@pytest.mark.slow
def test_configs_that_inherit_from_mmyolo_name_its_command():
    command = 'pip install "mmnextvit[yolo]"'
    code = """
import mmnextvit
from mmnextvit.cli import main
from mmnextvit.utils.errors import MissingPackageError
try:
    mmnextvit.get_config('yolov5_nextvit_s')
except MissingPackageError as error:
    print(error)
main(None, ['get_flops', 'configs/yolov5_nextvit_s.py'])
"""
    result = python(code, hide=['mmyolo'])
    text = f'this needs MMYOLO, which is not installed. Install it with: {command}'
    config = 'configs/yolov5_nextvit_s.py'
    assert last_error(result) == f'mmnextvit get_flops: {config}: {text}'
    assert 'Traceback' not in result.stderr
    assert text in result.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize('package', ['torch', 'mmcv', 'mmdet', 'mmyolo'])
def test_broken_package_shows_its_own_error(package, tmp_path):
    (tmp_path / f'{package}.py').write_text('raise ImportError("no libfoo.so.1")')
    env = {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])}
    warm = package != 'torch'  # which has been imported there
    error = last_error(python('from mmnextvit import NextViT', env=env, warm=warm))
    assert error == 'ImportError: no libfoo.so.1'


@pytest.mark.slow
def test_missing_dependency_of_mmcv_shows_its_own_error():
    code = 'from mmnextvit import NextViT'
    error = last_error(python(code, hide=['addict'], warm=False))
    assert error == "ModuleNotFoundError: No module named 'addict'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ('version', 'refusing'),
    [('2.1.0', 'mmyolo'), ('2.2.0', 'mmdet and mmyolo'), ('2.3.6', 'mmdet and mmyolo')],
)
def test_newer_mmcv_is_accepted_with_one_warning(version, refusing):
    pretend = f'''
import mmcv, warnings
warnings.simplefilter("always", UserWarning)
mmcv.__version__ = "{version}"
'''
    assert 'is used but incompatible' in last_error(python(pretend + 'import mmyolo'))
    code = """
import mmnextvit, mmdet, mmyolo.models
from mmdet.registry import MODELS
print(mmcv.__version__, MODELS.get('mmyolo.YOLODetector'), MODELS.get('mmdet.NextViT'))
"""
    result = python(pretend + code)
    models = "<class 'mmyolo.models.detectors.yolo_detector.YOLODetector'> "
    models += "<class 'mmnextvit.models.nextvit.NextViT'>\n"
    assert output(result).endswith(f'{version} {models}')
    warnings = [line for line in result.stderr.splitlines() if 'UserWarning' in line]
    assert len(warnings) == 1, result.stderr
    assert f'mmcv {version} is newer than {refusing} allow' in warnings[0]


@pytest.mark.slow
def test_assertion_about_something_else_is_not_got_past(tmp_path):
    (tmp_path / 'mmyolo.py').write_text('assert False, "MMEngine is incompatible"')
    code = 'import mmcv; mmcv.__version__ = "2.1.0"; import mmnextvit'
    error = last_error(python(code, env={'PYTHONPATH': str(tmp_path)}))
    assert error == 'AssertionError: MMEngine is incompatible'


@pytest.mark.slow
def test_compiled_ops_are_left_alone(tmp_path):
    (tmp_path / '_ext.py').write_text('def __getattr__(name): return len\n')
    code = f"""
import sys, mmcv
mmcv.__path__.append({str(tmp_path)!r})
import mmnextvit, mmcv.ops
ours = [f for f in sys.meta_path if type(f).__module__.startswith('mmnextvit')]
print(mmcv._ext.__file__, mmcv._ext.nms, ours)
"""
    log, rest = output(python(code)).splitlines()
    assert SAYS_COMPILED in log and 'INFO' in log
    assert rest == f'{tmp_path}/_ext.py <built-in function len> []'


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'lines'), [('0', 1), ('1', 0)])
def test_one_info_line_per_run(rank, lines):
    result = python('import mmnextvit, mmyolo.models', env={'RANK': rank})
    said = [line for line in output(result).splitlines() if SAYS_STAND_IN in line]
    assert len(said) == lines
    assert all(' INFO ' in line for line in said)


# Registration, in any order of imports

LOOK_UP = """
import sys, mmnextvit
import mmdet.registry, mmyolo.registry
from mmengine import registry as root
assert mmdet.registry.MODELS.get('NextViT') is mmnextvit.NextViT
assert root.MODELS.get('mmdet.TimmFeatures') is mmnextvit.TimmFeatures
assert mmyolo.registry.MODELS.get('YOLOv5YAMLNeck') is mmnextvit.YOLOv5YAMLNeck
assert 'YOLOv5YAMLBackbone' in mmyolo.registry.MODELS.module_dict
assert 'FittedYOLODetector' in repr(mmyolo.registry.MODELS)
for registry in (root.HOOKS, root.OPTIM_WRAPPERS, root.OPTIM_WRAPPER_CONSTRUCTORS,
                 root.TRANSFORMS, root.METRICS, root.WEIGHT_INITIALIZERS,
                 mmyolo.registry.DATASETS):
    objects = registry.module_dict.values()
    assert any('mmnextvit' in c.__module__ for c in objects), registry.name
from mmengine.runner import CheckpointLoader
assert 'mmnextvit' in CheckpointLoader._get_checkpoint_loader('x.pth').__module__
import mmcv.ops, mmengine, mmdet, mmyolo, mmnextvit.models
for module in (mmengine, mmcv, mmdet, mmyolo, mmnextvit.models):
    assert module.__spec__.loader is module.__loader__
    assert module.__spec__.origin == module.__file__
assert not [f for f in sys.meta_path if type(f).__name__ == '_RegisterFirst']
import gc
assert gc.isenabled()
"""

# As if a newer mmcv were installed than MMDetection and MMYOLO allow.
NEWER_MMCV = """
import sys, types, mmnextvit
version = sys.modules['mmcv.version'] = types.ModuleType('mmcv.version')
version.__version__, version.__all__ = '2.2.0', ['__version__']
import mmyolo.models, mmcv
assert mmcv.__version__ == '2.2.0' and mmyolo.__version__ and mmyolo.mmdet.__version__
"""

FIRST_IMPORTS = [
    NEWER_MMCV,
    'import mmnextvit, mmengine',
    'import mmnextvit, mmcv',
    'import mmnextvit; from mmdet.registry import MODELS',
    'import mmnextvit; import mmyolo.models',
    'import mmnextvit; from mmnextvit import YOLOv5YAMLNeck',
    'import mmnextvit.models.yolov5_yaml',
    'import mmnextvit.datasets.checks',
    'import mmnextvit.engine.hooks',
    'import mmnextvit.weights.reader',
    'import mmnextvit.deploy.candidates',
    'import mmnextvit._register',
    'import mmdet.registry; import mmnextvit',
    'from mmengine.config import Config; Config.fromfile("CONFIG")',
]


@pytest.mark.slow
@pytest.mark.parametrize('first', FIRST_IMPORTS)
def test_everything_is_registered_when_it_is_looked_up(first, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmnextvit'])")
    output(python(first.replace('CONFIG', str(config)) + '\n' + LOOK_UP))


@pytest.mark.slow
def test_looking_for_a_package_imports_nothing():
    code = """
import sys, mmnextvit
from importlib.util import find_spec
specs = [find_spec(name) for name in ('mmengine', 'mmcv', 'mmdet', 'mmyolo')]
print(*[spec.name for spec in specs if spec.origin.endswith('__init__.py')])
print(sorted({'torch', 'mmengine', 'mmcv', 'mmdet', 'numpy'} & set(sys.modules)))
print('NextViT' in dir(mmnextvit) and 'NextViT' in mmnextvit.__all__)
"""
    assert output(python(code, warm=False)) == 'mmengine mmcv mmdet mmyolo\n[]\nTrue\n'


@pytest.mark.slow
def test_a_user_can_replace_what_is_registered():
    code = """
import mmnextvit
from mmdet.registry import MODELS
@MODELS.register_module(force=True)
class NextViT:
    pass
assert MODELS.get('NextViT') is NextViT is not mmnextvit.NextViT
"""
    output(python(code))


@pytest.mark.slow
def test_registration_is_tried_again_once_a_package_is_there():
    code = """
import gc, sys, mmnextvit
sys.modules['mmcv'] = None  # as if it were not installed
for _ in range(2):
    try:
        import mmengine
    except ImportError as error:
        print(error)
del sys.modules['mmcv']
assert gc.isenabled()
gc.disable()
import mmengine
assert not gc.isenabled()
print('NextViT' in sys.modules['mmdet.registry'].MODELS.module_dict)
"""
    said = output(python(code)).splitlines()
    assert [line.split(',')[0] for line in said if 'INFO' not in line] == [
        'mmnextvit needs mmcv',
        'mmnextvit needs mmcv',
        'True',
    ]


class KeptByNMS(torch.utils.data.Dataset):
    """Runs an op in the worker; unpickled there by its name in this module."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        return mmcv.ops.nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.5)[1]


@pytest.mark.slow
def test_spawned_data_loader_workers_have_the_ops(capfd):
    loader = DataLoader(KeptByNMS(), num_workers=1, multiprocessing_context='spawn')
    assert [kept.tolist() for kept in loader] == [[[1, 2]], [[1, 2]]]
    assert SAYS_STAND_IN not in capfd.readouterr().out


@pytest.mark.slow
def test_what_python_says_of_their_backslashes_is_left_out():
    code = (
        'import mmnextvit, mmengine\n'
        r"""compile('"\\ "', '/site-packages/mmdet/a.py', 'exec')""" + '\n'
        r"""compile('"\\ "', '/mine/b.py', 'exec')"""
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ('/mine/b.py' in done.stderr) == (sys.version_info >= (3, 12))
    assert 'mmdet/a.py' not in done.stderr
