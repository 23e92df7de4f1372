"""A full shared memory ends a run in a message, where torch would wait for ever."""

import json
import subprocess
import sys

from mmnextvit.engine.shared_batches import SharedBatches
from mmnextvit.utils.errors import SHARED_MEMORY_FULL, find_user_error

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader, Dataset

from tests.conftest import ROOT


class Samples(Dataset):
    """As a detector's: a dict of an image and a sample with boxes."""

    def __init__(self, size: int = 8) -> None:
        self.size = size

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        boxes = torch.full((2, 4), float(index))
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes))
        image = torch.full((3, self.size, self.size), index, dtype=torch.uint8)
        return dict(inputs=image, data_samples=sample)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_stay_as_they_are(workers):
    collate = SharedBatches(pseudo_collate)
    batches = DataLoader(Samples(), 2, num_workers=workers, collate_fn=collate)
    for number, batch in enumerate(batches):
        for i, (image, sample) in enumerate(
            zip(batch['inputs'], batch['data_samples'], strict=True), 2 * number
        ):
            assert torch.equal(image, Samples()[i]['inputs'])
            assert (sample.gt_instances.bboxes == i).all()
            assert image.is_shared() == sample.gt_instances.bboxes.is_shared()
            assert image.is_shared() == bool(workers)


@pytest.mark.slow
def test_a_full_memory_is_an_error_at_once(monkeypatch):
    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            'unable to allocate shared memory(shm) for file </torch_1_2_3>: Resource '
            'temporarily unavailable (11)'
        )

    monkeypatch.setattr(torch.Tensor, 'share_memory_', refuse)
    loader = DataLoader(
        Samples(), 2, num_workers=1, collate_fn=SharedBatches(pseudo_collate)
    )
    with pytest.raises(RuntimeError) as error:
        list(loader)
    assert str(find_user_error(error.value)) == SHARED_MEMORY_FULL


# What it prints for each size: the exit code and the messages of a child, which has in
# common with the others what takes long to import.
CODE = """
import json, os, subprocess, sys, tempfile
from mmnextvit.cli import _set_exit_codes
from mmnextvit.engine.shared_batches import SharedBatches
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader
from tests.engine.test_shared_batches import Samples

ended = {}
for size in sys.argv[1:]:
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'x', '/dev/shm'])
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.dup2(errors.fileno(), 2)
            collate = SharedBatches(pseudo_collate)
            with _set_exit_codes('test'):
                list(DataLoader(Samples(400), 2, num_workers=2, collate_fn=collate))
            sys.exit()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        ended[size] = code, errors.read().decode()
print(json.dumps(ended))
"""


@pytest.mark.slow
def test_with_a_real_memory_of_any_size():
    """Too small for Python's locks, for a batch, and large enough."""
    namespace = 'unshare', '--mount'
    mount = 'mount', '-t', 'tmpfs', 'x', '/dev/shm'
    if subprocess.run([*namespace, *mount], capture_output=True).returncode:
        pytest.skip('this user may mount nothing')
    result = subprocess.run(
        [*namespace, sys.executable, '-c', CODE, '4k', '40k', '600k', '64m'],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    ended = json.loads(result.stdout.splitlines()[-1])
    assert ended.pop('64m') == [0, '']
    message = f'mmnextvit test: {SHARED_MEMORY_FULL}\n'
    assert ended == dict.fromkeys(('4k', '40k', '600k'), [1, message])
