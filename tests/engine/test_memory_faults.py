"""A command for which the memory does not suffice says what to change."""

from mmnextvit.cli import get_flops
from mmnextvit.engine.memory_faults import explain_memory_error, is_out_of_memory

import pytest
import torch

from tests.helpers.commands import refusal


@pytest.fixture(scope='module')
def of_torchs_allocator():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    return error.value


def test_torchs_allocator_for_cpus(of_torchs_allocator):
    text = str(explain_memory_error(of_torchs_allocator))
    assert 'the memory of this machine does not suffice' in text
    assert '--batch auto' in text and 'with_cp=True' in text


def test_a_gpu():
    error = torch.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity'
    )
    text = str(explain_memory_error(error))
    assert 'the memory of the GPU does not suffice (CUDA out of memory)' in text


@pytest.mark.parametrize(
    'signal, advice',
    [
        ('Killed. ', 'train_dataloader.num_workers=1'),
        ('Bus error. It is possible that workers are out of', '--shm-size'),
    ],
)
def test_a_worker_that_was_ended(signal, advice):
    error = RuntimeError(f'DataLoader worker (pid 7) is killed by signal: {signal}')
    assert advice in str(explain_memory_error(error))


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('mat1 and mat2 shapes cannot be multiplied'),
        RuntimeError('DataLoader worker (pid 7) exited unexpectedly'),
        ValueError("can't allocate memory"),
    ],
)
def test_other_errors_stay(error):
    assert explain_memory_error(error) is None and not is_out_of_memory(error)


@pytest.mark.parametrize('kind', ['allocator', MemoryError])
def test_a_command_ends_in_one_message(
    kind, of_torchs_allocator, tmp_path, monkeypatch
):
    def fail(args):
        raise of_torchs_allocator if kind == 'allocator' else kind()

    monkeypatch.setattr(get_flops, 'run', fail)
    said = refusal('get_flops', 'a.py', cwd=tmp_path)
    assert said.startswith('the memory of this machine does not suffice (')


def test_other_errors_of_a_command_keep_their_traceback(tmp_path, monkeypatch):
    def fail(args):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    monkeypatch.setattr(get_flops, 'run', fail)
    with pytest.raises(RuntimeError, match='mat1'):
        refusal('get_flops', 'a.py', cwd=tmp_path)
