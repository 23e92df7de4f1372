"""What each layer costs in int8, and which to leave in float.

NNCF's own ``quantize_with_accuracy_control`` restores layers one by one until a metric
is near enough. It tells neither what a layer costs nor takes a limit of time, it does
not know what our files for TensorRT are quantised with, and it measures a network, not
the file that is used. So layers are ranked and searched here, of whatever quantised
them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from .quantization import map_sources

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_IMAGES = 4  # batches that a layer's cost is measured on
MAX_RANKED = 100  # candidates of an image that it is measured on: the best
COST_SECONDS = 600  # after which no further layer is measured
MAX_SHARE = 0.5  # of the layers that may be left in float
SHOWN = 8  # layers in a report

MeanAP = dict[str, tuple[float, float]]  # in torch and of the file, by metric


@dataclass(frozen=True)
class Int8:
    """A network and what quantising it gave.

    Args:
        network: In float, as :func:`~mmnextvit.deploy.onnx.build_network` gave it.
        quantized: The same in int8. Layers have the same names in both.
    """

    network: 'ModelProto'
    quantized: 'ModelProto'

    def list_layers(self) -> list[str]:
        """Names of the layers that take 8 bits, in the network's order.

        Sums and pooling are among them, since these take 8 bits as well.
        """
        own = {node.name: node for node in self.network.graph.node}
        return [
            node.name
            for node in self.quantized.graph.node
            if node.name in own and node.input != own[node.name].input
        ]

    def leave_in_float(self, layers: Sequence[str]) -> 'ModelProto':
        """The network in int8 but for some layers, which are those of float."""
        if not layers:
            return self.quantized
        own = {node.name: node for node in self.network.graph.node}
        model = type(self.quantized).FromString(self.quantized.SerializeToString())
        constants = {i.name: i for i in self.network.graph.initializer}
        for node in model.graph.node:
            if node.name not in layers:
                continue
            # Under a name of its own: biases of int8 are others, corrected for it.
            for i, name in enumerate(own[node.name].input):
                node.input[i] = name
                if name in constants:
                    node.input[i] = f'{node.name}/{name}'
                    constant = model.graph.initializer.add()
                    constant.CopyFrom(constants[name])
                    constant.name = node.input[i]
        return remove_unused(model)

    def name_layer(self, layer: str) -> str:
        """What a user calls a layer: by its weight's name in the checkpoint.

        One without weights is called by what it is, behind the last one that has any.
        """
        graph = self.network.graph
        weights = {i.name for i in graph.initializer if i.name.endswith('.weight')}
        source = map_sources(self.network)
        node = first = next(n for n in graph.node if n.name == layer)
        while True:
            if own := [name for name in node.input if name in weights]:
                name = own[0].removesuffix('.weight')
                return name if node is first else f'{first.op_type} behind {name}'
            before = [source[name] for name in node.input if name in source]
            if not before:
                return layer
            node = before[0]


def remove_unused(model: 'ModelProto') -> 'ModelProto':
    """A model without the nodes and constants that nothing reads, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes = kept[::-1]
    constants = [i for i in graph.initializer if i.name in needed]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return model


def measure_costs(
    int8: Int8,
    batches: Sequence[np.ndarray],
    seconds: float = COST_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """How far each layer's 8 bits move what is found, all others being in float.

    Args:
        int8: The network.
        batches: Its inputs, (B, C, H, W), of which some are taken.
        seconds: After so many no further layer is measured; one always is.
        clock: Tells the time.

    Returns:
        The cost of each layer, falling, by name: the mean change of the best
        candidates' scores, and of their boxes as 1 - IoU, weighted by the scores.
    """
    inputs = batches[:MAX_IMAGES]
    reference = [*run_all(int8.network, inputs)]
    layers, costs, end = int8.list_layers(), {}, clock() + seconds
    for layer in track(layers, 'Measuring what each layer costs in int8'):
        others = [name for name in layers if name != layer]
        outputs = run_all(int8.leave_in_float(others), inputs)
        changes = [
            compute_change(was, now)
            for was, now in zip(reference, outputs, strict=True)
        ]
        costs[layer] = float(np.mean(changes))
        if clock() > end:
            break
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def run_all(
    model: 'ModelProto', batches: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of all candidates, for each batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # To optimise a network takes longer than to run it on a few images.
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    for batch in batches:
        boxes, scores, *_ = session.run(None, {'images': batch})
        yield boxes, scores


def compute_change(
    was: tuple[np.ndarray, np.ndarray], now: tuple[np.ndarray, np.ndarray]
) -> float:
    """How far the best candidates of a batch have moved; 0 for not at all.

    Args:
        was: Boxes (B, N, 4) and scores (B, N, C).
        now: The same of another network.
    """
    (boxes, scores), (moved, changed) = was, now
    best = scores.max(-1)
    order = np.argsort(-best, axis=1)[:, :MAX_RANKED]
    best = np.take_along_axis(best, order, 1)
    each = order[..., None]
    overlaps = compute_overlaps(
        *(np.take_along_axis(values, each, 1) for values in (boxes, moved))
    )
    differences = np.abs(
        np.take_along_axis(scores, each, 1) - np.take_along_axis(changed, each, 1)
    ).max(-1)
    return float((differences + best * (1 - overlaps)).mean())


def compute_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B, N): IoU of boxes (B, N, 4) one by one."""
    common = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = common.clip(0).prod(-1)
    areas = ((x[..., 2:] - x[..., :2]).clip(0).prod(-1) for x in (a, b))
    return inside / np.maximum(sum(areas) - inside, 1e-9)


def compute_drop(mean_ap: Mapping[str, tuple[float, float]]) -> float:
    """By how much the metric that fell most is lower than in torch; 0 if none is."""
    return max([0.0, *(theirs - ours for theirs, ours in mean_ap.values())])


@dataclass(frozen=True)
class Try:
    """A network with some layers in float.

    Attributes:
        layers: Their names.
        mean_ap: What it reaches.
    """

    layers: tuple[str, ...]
    mean_ap: MeanAP

    @property
    def drop(self) -> float:
        return compute_drop(self.mean_ap)


@dataclass(frozen=True)
class Search:
    """How a network was brought near enough to torch.

    Attributes:
        tries: All that was tried, in order.
        max_drop: By how much no metric may fall.
        ranked: How many layers were ranked, and so could be left in float.
        ended: Whether the time was over before the search, be it that not all layers
            were ranked that may be left in float.
    """

    tries: tuple[Try, ...]
    max_drop: float
    ranked: int
    ended: bool = False

    @property
    def chosen(self) -> Try | None:
        """The near enough one with the fewest layers in float."""
        near = [one for one in self.tries if one.drop <= self.max_drop]
        return min(near, key=lambda one: len(one.layers), default=None)

    @property
    def best(self) -> Try:
        """The one nearest to torch."""
        return min(self.tries, key=lambda one: one.drop)

    def tell_end(self, layers: int) -> str:
        """What was not looked at for want of time, in words.

        Args:
            layers: How many there are.
        """
        tried = len(self.tries) - 1  # the first has no layer in float
        return (
            f'the time (--max-minutes) was over when {self.ranked} of {layers} layers '
            f'were ranked and {tried or "none"} of their choices tried'
        )


def search_layers(
    ranked: Sequence[str],
    measure: Callable[[tuple[str, ...]], MeanAP],
    max_drop: float,
    seconds: float,
    first: Try,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    layers: int | None = None,
) -> Search:
    """Looks for the fewest layers to leave in float, the costliest first.

    One layer, then twice as many each time are tried, up to :data:`MAX_SHARE` of all;
    then numbers between the last that was too few and the first that was enough.

    Args:
        ranked: Names of the layers, the costliest first; not all if the time was over.
        measure: The mAP of a network with these in float.
        max_drop: By how much no metric may fall.
        seconds: After so many nothing further is tried.
        first: The network with no layer in float.
        say: Gets a line for each try.
        clock: Tells the time.
        layers: How many there are; as many as are ranked if ``None``.
    """
    tries, end = [first], clock() + seconds
    layers = len(ranked) if layers is None else layers
    allowed = int(layers * MAX_SHARE)
    most = min(allowed, len(ranked))
    too_few, enough, count = 0, most + 1, 1
    if first.drop <= max_drop:
        return Search((first,), max_drop, len(ranked))
    while enough - too_few > 1:
        if clock() > end:
            return Search(tuple(tries), max_drop, len(ranked), ended=True)
        names = tuple(ranked[:count])
        one = Try(names, measure(names))
        tries.append(one)
        say(f'{count} of {layers} layers in float: mAP falls by {one.drop:.4f}')
        if one.drop <= max_drop:
            enough = count
        else:
            too_few = count
        found = enough <= most
        count = (too_few + enough) // 2 if found else min(2 * count, most)
    ended = most < allowed and enough > most
    return Search(tuple(tries), max_drop, len(ranked), ended)


def format_costs(int8: Int8, costs: Mapping[str, float]) -> list[str]:
    """The layers that cost most, with their share of all costs, as lines."""
    total = sum(costs.values()) or 1.0
    layers = int8.list_layers()
    measured = f', of {len(costs)} of {len(layers)}' if len(costs) < len(layers) else ''
    lines = [f'What int8 costs by layer{measured}, the costliest first:']
    for layer, cost in list(costs.items())[:SHOWN]:
        lines.append(f'  {cost / total:6.1%}  {int8.name_layer(layer)}')
    rest = sum(list(costs.values())[SHOWN:])
    if len(costs) > SHOWN:
        lines.append(f'  {rest / total:6.1%}  {len(costs) - SHOWN} others')
    return lines
