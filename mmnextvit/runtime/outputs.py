"""What a network must give."""

from collections.abc import Mapping

import numpy as np

OUTPUTS = ('num_detections', 'boxes', 'scores', 'labels')  # with NMS inside

# The shape of each output for B images and C classes. K and N are any numbers.
SHAPES: dict[bool, dict[str, tuple[str | int, ...]]] = {
    True: {
        'num_detections': ('B', 1),
        'boxes': ('B', 'K', 4),
        'scores': ('B', 'K'),
        'labels': ('B', 'K'),
    },
    False: {'boxes': ('B', 'N', 4), 'scores': ('B', 'N', 'C')},
}

TYPES = {'boxes': 'f', 'scores': 'f', 'num_detections': 'iu', 'labels': 'iu'}


def check_outputs(
    outputs: Mapping[str, np.ndarray], count: int, classes: int, in_graph: bool
) -> None:
    """Makes sure that a network gave what it must.

    Args:
        outputs: By name.
        count: How many images it was given.
        classes: How many the metadata name.
        in_graph: Whether it has non-maximum suppression inside.

    Raises:
        ValueError: An output is missing, of another type or shape, has values that are
            no numbers, or counts or labels that cannot be.
    """
    sizes: dict[str | int, int] = {'B': count, 'C': classes, 1: 1, 4: 4}
    for name, shape in SHAPES[in_graph].items():
        if name not in outputs:
            raise ValueError(f'it has no output {name!r}')
        values = outputs[name]
        fits = values.ndim == len(shape) and values.dtype.kind in TYPES[name]
        if not fits or any(
            sizes.setdefault(side, has) != has for side, has in zip(shape, values.shape)
        ):
            wanted = ', '.join(str(sizes.get(side, side)) for side in shape)
            raise ValueError(
                f'its output {name!r} has the shape {values.shape} and the type '
                f'{values.dtype}, and must have ({wanted}) and '
                f'{"float32" if TYPES[name] == "f" else "int32"}'
            )
    boxes, scores = outputs['boxes'], outputs['scores']
    if in_graph:
        counts, limit = outputs['num_detections'][:, 0], scores.shape[1]
        if not ((counts >= 0) & (counts <= limit)).all():
            raise ValueError(f'it counts {counts.max()} detections, of {limit} at most')
        real = np.arange(limit) < counts[:, None]
        boxes, labels = boxes[real], outputs['labels'][real]
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f'its labels reach from {labels.min()} to {labels.max()}, and the '
                f'metadata name {classes} classes'
            )
    for name, values in (('scores', scores), ('boxes', boxes)):
        if not np.isfinite(values).all():
            raise ValueError(f'its {name} are not all finite, as with broken weights')
