"""A second, independent reading of YOLOv5's rows, to compare ours with.

Written from the facts of the YAML (module names, channels, index rules), with YOLOv5's
parameter names, plain torch, and Python's own list indexing for ``from``.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return x * torch.sigmoid(x)


class Bottleneck(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, 3), shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, c1, c2, n, shortcut=True):
        super().__init__()
        half = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, half), Conv(c1, half), Conv(c2, c2)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, k):
        super().__init__()
        self.cv1, self.cv2, self.k = Conv(c1, c1 // 2), Conv(c1 // 2 * 4, c2), k

    def forward(self, x):
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], self.k, 1, self.k // 2))
        return self.cv2(torch.cat(maps, 1))


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat(x, 1)


class Rows(nn.Module):
    """Rows behind a backbone's maps; ``forward`` returns every map in a list."""

    def __init__(self, rows, channels, depth_multiple, width_multiple):
        super().__init__()
        self.model, self.froms = nn.ModuleList(), []
        channels = [None] * (5 - len(channels)) + list(channels)
        for source, n, name, args in rows:
            n = n if n == 1 else max(round(n * depth_multiple), 1)
            if name == 'Concat':
                module, c2 = Concat(), sum(channels[i] for i in source)
            elif name == 'nn.Upsample':
                module, c2 = nn.Upsample(*args), channels[source]
            else:
                c1, c2 = channels[source], math.ceil(args[0] * width_multiple / 8) * 8
                if name == 'C3':
                    module = C3(c1, c2, n, *args[1:])
                else:
                    module = dict(Conv=Conv, SPPF=SPPF)[name](c1, c2, *args[1:])
            self.model.append(module)
            self.froms.append(source)
            channels.append(c2)
        self.channels = channels

    def forward(self, maps):
        y = [None] * (5 - len(maps)) + list(maps)
        for source, module in zip(self.froms, self.model):
            x = [y[i] for i in source] if isinstance(source, list) else y[source]
            y.append(module(x))
        return y


def decode(raw, anchors, stride):
    """YOLOv5's boxes from one level's raw map.

    Args:
        raw: (B, A * (5 + classes), H, W).
        anchors: A pairs of width and height in pixels.
        stride: Pixels a cell.

    Returns:
        (B, A * H * W, 5 + classes): x1, y1, x2, y2 in pixels, objectness, classes.
    """
    b, _, h, w = raw.shape
    y = raw.view(b, len(anchors), -1, h, w).permute(0, 1, 3, 4, 2).sigmoid()
    cells = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing='xy'))
    xy = (y[..., :2] * 2 - 0.5 + cells.permute(1, 2, 0)) * stride
    wh = (y[..., 2:4] * 2) ** 2 * torch.tensor(anchors).view(1, -1, 1, 1, 2)
    boxes = torch.cat([xy - wh / 2, xy + wh / 2, y[..., 4:]], -1)
    return boxes.reshape(b, -1, y.shape[-1])
