"""What to do where the memory does not suffice, in the place of a traceback."""

import re

import torch

from ..utils.errors import UserError

# torch's own allocator for CPUs raises no type of its own.
CPU_ALLOCATOR = "can't allocate memory"
KILLED_WORKER = re.compile(r'DataLoader worker .*killed by signal: (Killed|Bus error)')


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a device or of the machine, is used up."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error))


def explain_memory_error(error: BaseException) -> UserError | None:
    """What to change about a command for which the memory does not suffice.

    Args:
        error: Whatever the command ended with.

    Returns:
        The error to show in its place; ``None`` where it is no such error.
    """
    worker = KILLED_WORKER.search(str(error))
    if worker and worker[1] == 'Bus error':
        return UserError(
            'a process that reads images found no shared memory: give the container '
            'more (docker run --shm-size=8g, or --ipc=host), or read in this process '
            '(--cfg-options train_dataloader.num_workers=0 '
            'train_dataloader.persistent_workers=False)'
        )
    if worker:
        return UserError(
            'a process that reads images was ended by the system, as it does where '
            'the memory is used up: take fewer (--cfg-options '
            'train_dataloader.num_workers=1), or a smaller batch (--batch)'
        )
    if not is_out_of_memory(error):
        return None
    where = 'the GPU' if isinstance(error, torch.OutOfMemoryError) else 'this machine'
    reason = re.split(r'\. |\n', str(error).strip())[0]
    return UserError(
        f'the memory of {where} does not suffice ({reason or "MemoryError"}): take a '
        'smaller batch (--batch; --batch auto finds the largest that fits), smaller '
        'images (--imgsz), mixed precision (--amp), or compute blocks again in the '
        'backward pass (--cfg-options model.backbone.with_cp=True, if it is a NextViT)'
    )
