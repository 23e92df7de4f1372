"""One exception type for what a user can mend, with its fields."""

import errno
import multiprocessing.synchronize
import pickle

from mmnextvit.utils.errors import (
    SHARED_MEMORY_FULL,
    TOO_MANY_FILES,
    MissingFileError,
    MissingPackageError,
    UserError,
    find_user_error,
)
from mmnextvit.utils.messages import did_you_mean, first_few

import pytest
from mmengine.registry import Registry
from torch.utils.data import DataLoader, Dataset


@pytest.mark.parametrize(
    'fields, text',
    [
        ({}, 'is wrong'),
        ({'file': 'a.yaml'}, 'a.yaml: is wrong'),
        ({'file': 'a.yaml', 'line': 3, 'row': 5}, 'a.yaml:3: row 5: is wrong'),
        ({'key': 'nc'}, 'nc: is wrong'),
        ({'line': 3}, 'is wrong'),
    ],
)
def test_the_text_is_made_of_the_fields(fields, text):
    error = UserError('is wrong', **fields)
    assert str(error) == text
    error.file = 'late.yaml'  # an outer part knows the file
    assert str(error).startswith('late.yaml: ') or fields.get('line')
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.row == error.row


@pytest.mark.parametrize(
    'kind, base',
    [(MissingFileError, FileNotFoundError), (MissingPackageError, ImportError)],
)
def test_standard_types(kind, base):
    with pytest.raises(base, match='^x: is missing$'):
        raise kind('is missing', file='x')
    assert find_user_error(kind('is missing')) is not None


def test_the_error_behind_what_mmengine_raises():
    registry = Registry('part')

    @registry.register_module()
    class Part:
        def __init__(self) -> None:
            raise UserError('is wrong', row=7)

    with pytest.raises(ValueError) as raised:
        registry.build(dict(type='Part'))
    found = find_user_error(raised.value)
    assert str(found) == 'row 7: is wrong' and found.row == 7


def test_an_error_that_a_registry_repeats():
    """As MMEngine up to 0.10 does."""
    with pytest.raises(UserError) as raised:
        try:
            raise UserError('is wrong', row=7)
        except UserError as error:
            raise type(error)(f'class `Part` in pack/part.py: {error}')  # noqa: B904
    found = find_user_error(raised.value)
    assert str(found) == 'row 7: is wrong' and found.row == 7


class BrokenData(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError('is broken: see here', file='a.jpg')


@pytest.mark.slow
def test_an_error_of_a_data_loader_worker():
    with pytest.raises(UserError, match='Traceback') as raised:
        next(iter(DataLoader(BrokenData(), num_workers=1)))
    assert str(find_user_error(raised.value)) == 'a.jpg: is broken: see here'


def test_a_better_message_counts():
    with pytest.raises(UserError) as raised:
        try:
            raise UserError('a detail')
        except UserError as error:
            raise UserError(f'what to do: {error}') from error
    assert find_user_error(raised.value) is raised.value
    with pytest.raises(UserError) as raised:
        try:
            raise UserError('a detail')
        except UserError:
            raise UserError('what to do instead of a detail') from None
    assert find_user_error(raised.value) is raised.value


def test_errors_of_the_system_count_where_they_name_a_file(tmp_path):
    with pytest.raises(OSError) as raised:
        (tmp_path / 'no').read_text()
    assert find_user_error(raised.value) is raised.value
    assert find_user_error(OSError('no name')) is None
    assert find_user_error(ValueError('a bug')) is None


def test_a_full_disk_counts_without_a_file():
    full = OSError(errno.ENOSPC, 'No space left on device')
    assert find_user_error(full) is full


def test_a_bug_in_the_handling_of_an_error_is_a_bug():
    with pytest.raises(KeyError) as raised:
        try:
            raise UserError('is wrong')
        except UserError:
            dict()['missing']
    assert find_user_error(raised.value) is None
    with pytest.raises(RuntimeError) as raised:
        try:
            raise UserError('is wrong')
        except UserError as error:
            raise RuntimeError('wrapped on purpose') from error
    assert str(find_user_error(raised.value)) == 'is wrong'


def test_messages():
    assert first_few('abc', 3) == 'a, b, c'
    assert first_few(range(9), 2) == '0, 1 and 7 more'
    assert did_you_mean('trian', ['train', 'test']) == 'did you mean train?'
    assert did_you_mean('xyz', ['train']) == ''


@pytest.mark.parametrize(
    'text',
    [
        'unable to allocate shared memory(shm) for file </torch_1_2_3>: Success (0)',
        'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that '
        "dataloader's workers are out of shared memory. Please try to raise your "
        'shared memory limit.',
        'Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most '
        'recent call last):\n...\nRuntimeError: unable to allocate shared memory(shm)',
    ],
)
def test_a_full_shared_memory_has_a_message_of_its_own(text):
    try:
        raise TypeError('in its place') from RuntimeError(text)
    except TypeError as error:
        assert str(find_user_error(error)) == SHARED_MEMORY_FULL
    assert find_user_error(RuntimeError('another')) is None


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError(
            'unable to open shared memory object </torch_1> in read-write mode: Too '
            'many open files (24)'
        ),
        RuntimeError('received 0 items of ancdata'),
        OSError(errno.EMFILE, 'Too many open files'),
    ],
)
def test_too_many_open_files_have_a_message_of_their_own(error):
    assert str(find_user_error(error)) == TOO_MANY_FILES
    assert 'ulimit -n' in TOO_MANY_FILES


@pytest.mark.parametrize(
    'text',
    [
        'out of resource: shared memory, Required: 240000, Hardware limit: 232448.',
        'unable to open shared memory object </torch_1> in read-write mode: Permission '
        'denied (13)',
    ],
)
def test_other_errors_about_shared_memory_stay(text):
    assert find_user_error(RuntimeError(text)) is None


def test_a_lock_without_space_is_about_the_shared_memory():
    # `SemLock` is of C, so that the last frame is the one that calls it.
    code = compile('raise OSError(28, "No space left on device")', 'x', 'exec')
    lock = code.replace(co_filename=multiprocessing.synchronize.__file__)
    with pytest.raises(OSError) as error:
        exec(lock)
    assert str(find_user_error(error.value)) == SHARED_MEMORY_FULL
    with pytest.raises(OSError) as error:
        exec(code)
    assert find_user_error(error.value) is error.value
