"""What layers cost in int8, and which are left in float to keep the mAP."""

from itertools import count
from types import SimpleNamespace

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import export as module
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.onnx import build_network
from mmnextvit.deploy.quantization import (
    list_float_layers,
    quantize,
    quantize_signed,
)
from mmnextvit.deploy.sensitivity import (
    Int8,
    Try,
    compute_change,
    compute_drop,
    measure_costs,
    run_all,
    search_layers,
)
from mmnextvit.utils.errors import UserError

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array, to_array

from tests.helpers.lively_detectors import (
    as_input,
    demo_images,
    lively_detector,
    small_config,
)

pytestmark = pytest.mark.deploy


def fell(drop: float) -> dict[str, tuple[float, float]]:
    return {'bbox_mAP': (0.5, 0.5 - drop / 2), 'bbox_mAP_50': (0.8, 0.8 - drop)}


@pytest.mark.parametrize('needed', [*range(9), 11, 16])
def test_the_fewest_layers_that_are_enough(needed):
    ranked = [f'layer {i}' for i in range(20)]
    lines = []

    def measure(layers):
        assert list(layers) == ranked[: len(layers)]
        return fell(0.005 if len(layers) >= needed else 0.03)

    first = Try((), measure(()))
    search = search_layers(ranked, measure, 0.01, 60, first, lines.append)
    assert len(search.tries) <= 8 and len(lines) == len(search.tries) - 1
    if needed <= 10:  # half of them
        assert search.chosen.layers == tuple(ranked[:needed])
        assert search.chosen.drop == pytest.approx(0.005)
    else:
        assert search.chosen is None and not search.ended
        assert len(search.tries[-1].layers) == 10


def test_the_time_bounds_the_search():
    clock = count().__next__
    drops = iter([0.03, 0.02, 0.025, 0.04])

    def measure(layers):
        return fell(next(drops))

    ranked = [str(i) for i in range(20)]
    search = search_layers(
        ranked, measure, 0.01, 2, Try((), fell(0.05)), clock=lambda: clock()
    )
    assert search.ended and search.chosen is None
    assert len(search.tries) == 3 and search.best.drop == pytest.approx(0.02)


def test_layers_that_there_was_no_time_to_rank():
    """Half of all layers may be left in float, however few of them were ranked."""
    first, ranked = Try((), fell(0.05)), ['a', 'b', 'c']

    def search(names, needed, seconds=60, layers=20):
        return search_layers(
            *(names, lambda some: fell(0.005 if len(some) >= needed else 0.03), 0.01),
            *(seconds, first),
            layers=layers,
        )

    lacking = search(ranked, needed=4)
    assert [len(one.layers) for one in lacking.tries] == [0, 1, 2, 3]
    assert lacking.ended and lacking.chosen is None
    assert '3 of 20 layers were ranked and 3 of their choices' in lacking.tell_end(20)
    enough = search(ranked, needed=3)
    assert enough.chosen.layers == ('a', 'b', 'c') and not enough.ended

    untried = search(['a'], needed=1, seconds=-1)
    assert untried.ended and untried.tries == (first,)
    assert '1 of 20 layers were ranked and none' in untried.tell_end(20)
    all_tried = search(ranked, needed=4, layers=6)
    assert not all_tried.ended and all_tried.chosen is None


@pytest.mark.parametrize(
    'share, said',
    [(0.5, r'time \(--max-minutes\) was over when 1 of \d+ layers'), (0, 'with half')],
)
def test_what_is_said_of_a_search_that_ends(monkeypatch, share, said):
    network = SimpleNamespace(list_layers=lambda: [str(i) for i in range(20)])
    job = SimpleNamespace(int8=network, calibration=())
    monkeypatch.setattr('mmnextvit.deploy.sensitivity.MAX_SHARE', share)
    for name, value in dict(
        build_dataset=None,
        measure_in_torch={},
        write=None,
        replace=job,
        beside=fell(0.05),
        measure_costs={'0': 1.0},
    ).items():
        monkeypatch.setattr(module, name, lambda *_, value=value, **__: value)
    options = module.Options('onnx', precision='int8', max_drop=0.01, max_minutes=0)
    cfg = SimpleNamespace(filename='a.py')
    with pytest.raises(UserError, match=f'is not reached: .*{said}.*with 0 of 20'):
        module.leave_costly_layers(job, options, cfg, 'a.pth', print)


def test_drops_and_changes():
    assert compute_drop({}) == 0 and compute_drop(fell(-0.1)) == 0
    assert compute_drop(fell(0.1)) == pytest.approx(0.1)
    boxes = np.float32([[[0, 0, 10, 10], [5, 5, 15, 15]]])
    scores = np.float32([[[0.8, 0.0], [0.0, 0.4]]])
    assert compute_change((boxes, scores), (boxes, scores)) == 0
    changed = scores + np.float32([[[0.1, 0], [0, 0]]])
    change = compute_change((boxes, scores), (boxes, changed))
    assert change == pytest.approx(0.05)
    moved = boxes + np.float32([[[0, 0, 0, 0], [5, 0, 5, 0]]])  # IoU 1/3
    change = compute_change((boxes, scores), (moved, scores))
    assert change == pytest.approx(0.4 * (2 / 3) / 2)


def coarsen(model: onnx.ModelProto, layer: str, factor: float = 100) -> onnx.ModelProto:
    """A quantised network in which one layer's weights have few values left."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    source = {out: node for node in made.graph.node for out in node.output}
    constants = {i.name: i for i in made.graph.initializer}
    node = next(n for n in made.graph.node if n.name == layer)
    dequantize = source[node.input[1]]
    steps = [dequantize]
    if dequantize.input[0] in source:  # what makes the 8 bits is in the file, too
        steps.append(source[dequantize.input[0]])
    for step in steps:
        scale = to_array(constants[step.input[1]]) * np.float32(factor)
        name = f'{step.name}/coarse'
        step.input[1] = name
        made.graph.initializer.append(from_array(scale, name))
    if len(steps) == 1:
        weights = constants[dequantize.input[0]]
        values = np.round(to_array(weights) / factor).astype(to_array(weights).dtype)
        weights.CopyFrom(from_array(values, weights.name))
    return made


def pick_layer(network: onnx.ModelProto) -> str:
    """A convolution of the stem, through which all must go."""
    return next(
        n.name for n in network.graph.node if 'backbone.stem.1.conv.weight' in n.input
    )


@pytest.fixture(scope='module')
def network() -> onnx.ModelProto:
    model = lively_detector(small_config('yolov5_nextvit_s', classes=3))
    return build_network(Candidates(model), (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize('quantizer', [quantize, quantize_signed])
def test_the_costliest_layer_is_found(network, quantizer):
    batches = [as_input([i]).numpy() for i in demo_images(*[(64, 64)] * 4, seed=5)]
    layer = pick_layer(network)
    int8 = Int8(network, coarsen(quantizer(network, batches), layer))
    layers = int8.list_layers()
    assert layer in layers and len(layers) > 40
    costs = measure_costs(int8, batches[:2])
    assert {*costs} == {*layers} and [*costs][0] == layer
    assert costs[layer] > 2 * [*costs.values()][1] > 0
    assert int8.name_layer(layer).startswith(('backbone.', 'neck.'))
    assert '.weight' not in int8.name_layer(layer)

    whole = int8.leave_in_float(layers)
    for ours, theirs in zip(run_all(whole, batches), run_all(network, batches)):
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    some = int8.leave_in_float((layer,))
    assert layer in list_float_layers(some)
    assert {*list_float_layers(some)} - {*list_float_layers(int8.quantized)} == {layer}
    few = measure_costs(int8, batches, seconds=0)
    assert len(few) == 1


@pytest.mark.slow
def test_export_leaves_costly_layers_in_float(export_here, here, monkeypatch):
    chosen, known = [], {}

    def quantize_badly(network, images):
        chosen.append(pick_layer(network))
        if 'int8' not in known:  # the three exports quantise the same
            known['int8'] = coarsen(quantize(network, images), chosen[-1])
        return onnx.ModelProto.FromString(known['int8'].SerializeToString())

    def measure_once(int8, batches, *args):
        assert int8.quantized == known['int8']
        if 'costs' not in known:
            known['costs'] = measure_costs(int8, batches, *args)
        return dict(known['costs'])

    monkeypatch.setattr(module, 'quantize', quantize_badly)
    monkeypatch.setattr(module, 'measure_costs', measure_once)
    options = dict(precision='int8', calibration='data/train', out='small.onnx')
    report = export_here('onnx', **options)
    drop = compute_drop(report.mean_ap)
    assert drop > 0.05, report
    name = report.costs[1].split()[-1]
    assert report.costs[0].startswith('What int8 costs by layer')
    assert name.startswith(('backbone.', 'neck.')) and name in str(report)

    options |= dict(out='kept.onnx', max_drop=drop / 2)
    kept = export_here('onnx', **options)
    assert compute_drop(kept.mean_ap) <= drop / 2 < drop
    assert {*chosen} <= {*kept.float_layers}
    assert len(kept.float_layers) < len(report.float_layers) + 10

    monkeypatch.setattr('mmnextvit.deploy.sensitivity.MAX_SHARE', 0)
    options |= dict(out='none.onnx', max_drop=drop / 2)
    with pytest.raises(UserError, match='is not reached: .*falls by .*with 0 of'):
        export_here('onnx', **options)
    assert not (here / 'none.onnx').exists()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(max_drop=0.01), r'\(--max-drop\) is for int8'),
        (dict(max_drop=2.0), 'part of mAP, 0 to 1'),
        (dict(max_drop=0.01, with_map=False), 'has mAP measured'),
        (dict(max_drop=0.01, max_minutes=0), 'max-minutes.*positive'),
    ],
)
def test_searches_that_cannot_be_made(options, message):
    asked = module.Options('onnx', calibration='wide', **options)
    if 'for int8' not in message:
        asked = module.replace(asked, precision='int8')
    with pytest.raises(UserError, match=message):
        module.check_options(asked)
