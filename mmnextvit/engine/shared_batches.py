"""Batches of data-loader workers, handed over so that a full memory is an error."""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info


class SharedBatches:
    """A collate function whose workers put tensors into shared memory themselves.

    torch leaves that to a thread that sends batches. There an error, as that of a full
    ``/dev/shm``, is printed, the batch is lost, and the main process waits for ever.

    Args:
        collate: What makes a batch of samples.
    """

    def __init__(self, collate: Callable[[Sequence], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence) -> Any:
        """The batch.

        Raises:
            RuntimeError: There is no space in the shared memory.
        """
        batch = self.collate(samples)
        if get_worker_info() is not None:
            _Sharer(io.BytesIO()).dump(batch)
        return batch


class _Sharer(pickle.Pickler):
    """Shares the tensors in whatever it is given, and pickles them nowhere."""

    def persistent_id(self, part: object) -> str | None:
        if not isinstance(part, torch.Tensor):
            return None
        if part.layout == torch.strided:
            part.share_memory_()
        return ''
