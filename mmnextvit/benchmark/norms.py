"""BatchNorms unlike a fresh network's, which only pass on what they get."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar('T')


def list_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms of a network."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]


def vary_norms(network: nn.Module) -> None:
    """Gives BatchNorms random statistics, weights and biases."""
    for norm in list_norms(network):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        vary_scales(norm)


def vary_scales(norm: _BatchNorm) -> None:
    """Gives a BatchNorm random weights and biases."""
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.1)


def settle_norms(network: nn.Module, run: Callable[[], T]) -> T:
    """Gives BatchNorms the statistics of what they see in a pass.

    Args:
        network: It is in eval mode afterwards.
        run: The pass.

    Returns:
        What the pass gives, by the norms in training mode, without gradients.
    """
    network.eval()
    norms = list_norms(network)
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        given = run()
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum
        norm.eval()
    return given
