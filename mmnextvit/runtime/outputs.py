"""What a network must give."""

from collections.abc import Mapping

import numpy as np

# The shape of each output for B images and C classes. K and N are any numbers, and so
# are h and w.
SHAPES: dict[bool, dict[str, tuple[str | int, ...]]] = {
    True: {
        'num_detections': ('B', 1),
        'boxes': ('B', 'K', 4),
        'scores': ('B', 'K'),
        'labels': ('B', 'K'),
    },
    False: {'boxes': ('B', 'N', 4), 'scores': ('B', 'N', 'C')},
}

# What masks are made of, in addition: M prototypes.
MASK_SHAPES: dict[bool, dict[str, tuple[str | int, ...]]] = {
    in_graph: {
        'coefficients': ('B', 'K' if in_graph else 'N', 'M'),
        'prototypes': ('B', 'M', 'h', 'w'),
    }
    for in_graph in (True, False)
}

TYPES = {'num_detections': 'iu', 'labels': 'iu'}  # of others floating-point numbers


def list_outputs(in_graph: bool, masks: bool) -> list[str]:
    """Names of a network's outputs, in their order.

    Args:
        in_graph: Whether it has non-maximum suppression inside.
        masks: Whether it finds masks.
    """
    return [*SHAPES[in_graph], *(MASK_SHAPES[in_graph] if masks else ())]


def check_outputs(
    outputs: Mapping[str, np.ndarray],
    count: int,
    classes: int,
    in_graph: bool,
    mask_channels: int = 0,
) -> None:
    """Makes sure that a network gave what it must.

    Args:
        outputs: By name.
        count: How many images it was given.
        classes: How many the metadata name.
        in_graph: Whether it has non-maximum suppression inside.
        mask_channels: How many prototypes masks are made of; 0 if it finds none.

    Raises:
        ValueError: An output is missing, of another type or shape, has values that are
            no numbers, or counts or labels that cannot be.
    """
    sizes: dict[str | int, int] = {'B': count, 'C': classes, 'M': mask_channels}
    sizes |= {1: 1, 4: 4}
    shapes = SHAPES[in_graph] | (MASK_SHAPES[in_graph] if mask_channels else {})
    for name, shape in shapes.items():
        if name not in outputs:
            raise ValueError(f'it has no output {name!r}')
        values = outputs[name]
        kinds = TYPES.get(name, 'f')
        fits = values.ndim == len(shape) and values.dtype.kind in kinds
        if not fits or any(
            sizes.setdefault(side, has) != has for side, has in zip(shape, values.shape)
        ):
            wanted = ', '.join(str(sizes.get(side, side)) for side in shape)
            raise ValueError(
                f'its output {name!r} has the shape {values.shape} and the type '
                f'{values.dtype}, and must have ({wanted}) and '
                f'{"float32" if kinds == "f" else "int32"}'
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
    parts = {'scores': scores, 'boxes': boxes}
    parts |= {name: outputs[name] for name in MASK_SHAPES[in_graph] if name in shapes}
    for name, values in parts.items():
        if not np.isfinite(values).all():
            raise ValueError(f'its {name} are not all finite, as with broken weights')
