"""The neck of the patched YOLOv5, and its parameters under YOLOv5's names."""

from mmnextvit.models.yolov5_graph import RowGraph

from torch import Tensor

# The YAML of the patched YOLOv5, row by row (SPEC, section 2)
YAML = [
    [-1, 1, 'SPPF', [1024, 5]],
    [-1, 1, 'Conv', [512, 1, 1]],
    [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],
    [[-1, 3], 1, 'Concat', [1]],
    [-1, 3, 'C3', [512, False]],
    [-1, 1, 'Conv', [256, 1, 1]],
    [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],
    [[-1, 2], 1, 'Concat', [1]],
    [-1, 3, 'C3', [256, False]],
    [-1, 1, 'Conv', [256, 3, 2]],
    [[-1, 10], 1, 'Concat', [1]],
    [-1, 3, 'C3', [512, False]],
    [-1, 1, 'Conv', [512, 3, 2]],
    [[-1, 5], 1, 'Concat', [1]],
    [-1, 3, 'C3', [1024, False]],
]
CHANNELS = (96, 256, 512, 1024)


def yolov5_state(graph: RowGraph) -> dict[str, Tensor]:
    """Our parameters under YOLOv5's names: only the numbers differ."""
    renamed = {}
    for name, value in graph.state_dict().items():
        number, rest = name.split('.', 1)
        renamed[f'model.{int(number) - 5}.{rest}'] = value
    return renamed
