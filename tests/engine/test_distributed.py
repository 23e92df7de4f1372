"""Two CPU processes give what one process gives, and end together."""

import functools
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmnextvit.cli import main

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.forks import Fork, fork, is_running, wait_until
from tests.helpers.random_run import Run, find_differences
from tests.helpers.tiny_run import run_tool, write_tiny_run

pytestmark = pytest.mark.slow


def gradients(config, state, batch) -> dict:
    """Of this process's share of the batch, as MMEngine's train step makes them."""
    init_default_scope('mmyolo')
    model = MODELS.build(Config.fromfile(config).model).double()
    model.load_state_dict(state)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.eval()
    assert norms and not any(isinstance(n, torch.nn.SyncBatchNorm) for n in norms)
    found = {}

    class Keep(OptimWrapper):
        """Takes the gradients in the place of a step."""

        def step(self, **kwargs):
            found.update((n, p.grad.clone()) for n, p in model.named_parameters())

    wrapper = Keep(torch.optim.SGD(model.parameters(), lr=1))
    if get_world_size() > 1:
        MMDistributedDataParallel(model, broadcast_buffers=False).train_step(
            batch, wrapper
        )
    else:
        model.train_step(batch, wrapper)
    return found


def process(rank, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/meeting', rank=rank, world_size=2
    )
    state, batches = torch.load(f'{folder}/state.pt')
    found = gradients(f'{folder}/tiny.py', state, batches[rank])
    torch.save(found, f'{folder}/gradients_{rank}.pt')
    torch.distributed.destroy_process_group()


def make_batch(first, last, boxes) -> dict:
    """Images of chosen numbers; each has the same boxes, so as many positives."""
    images = [
        torch.randint(
            64 * i + 1, (3, 64, 64), generator=torch.Generator().manual_seed(i)
        )
        for i in range(first + 1, last + 1)
    ]
    labels = [
        torch.tensor([i, label, *box])
        for i in range(last - first)
        for label, box in enumerate(boxes)
    ]
    return dict(
        inputs=torch.stack(images),
        data_samples=dict(bboxes_labels=torch.stack(labels)),
    )


@pytest.fixture
def float64():
    """Gradients of the attention are so small that float32 leaves noise of them."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_gradients_of_two_processes_are_those_of_one(tmp_path, lively, float64):
    write_tiny_run(tmp_path)
    boxes = [[4.0, 6.0, 20.0, 30.0], [10.0, 2.0, 60.0, 50.0], [30.0, 34.0, 42.0, 40.0]]
    init_default_scope('mmyolo')
    torch.manual_seed(0)
    config = tmp_path / 'tiny.py'
    model = lively(MODELS.build(Config.fromfile(config).model))
    for param in model.parameters():  # so that outputs depend on the image
        if param.ndim > 1:
            torch.nn.init.kaiming_normal_(param)
    state = model.state_dict()
    halves = [make_batch(0, 2, boxes), make_batch(2, 4, boxes)]
    torch.save((state, halves), tmp_path / 'state.pt')

    torch.multiprocessing.start_processes(  # by fork, without importing all again
        process, (str(tmp_path),), nprocs=2, start_method='fork'
    )
    of_two, of_other = (torch.load(tmp_path / f'gradients_{i}.pt') for i in range(2))
    of_one = gradients(config, state, make_batch(0, 4, boxes))
    of_half = gradients(config, state, make_batch(0, 2, boxes))

    assert of_one.keys() == of_two.keys() and len(of_one) > 200
    different = 0
    for name, expected in of_one.items():
        if name.endswith('e_mhsa.k.bias'):
            continue  # softmax does not see it: 0 but for rounding
        scale = expected.abs().max()
        assert scale > 0, name
        assert (of_two[name] - expected).abs().max() < 1e-8 * scale, name
        assert torch.equal(of_two[name], of_other[name]), name
        different += (2 * of_half[name] - expected).abs().max() > 1e-2 * scale
    # The halves differ, so equality says something.
    assert different > 0.9 * len(of_one)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


OPTIONS = (
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'model.backbone.norm_cfg.type=SyncBN',
)


def start_two(folder: Path, work_dir: str, *options: str) -> list[Fork]:
    """Trains in two forked processes, as a launcher would start them."""
    arguments = ['tiny.py', '--launcher=pytorch', f'--work-dir={work_dir}']
    command = functools.partial(
        main, 'train', [*arguments, '--auto-scale-lr', '--cfg-options', *options]
    )
    common = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=2)
    return [
        fork(command, folder, f'{work_dir}_{i}', RANK=i, LOCAL_RANK=i, **common)
        for i in range(2)
    ]


def test_train_and_test_in_two_processes(tmp_path):
    """As on two machines, and as on several GPUs of one, from another folder;
    `norm_cfg` asks for SyncBN too."""
    write_tiny_run(tmp_path)
    port = free_port()

    def run_node(node: int) -> str:
        return run_tool(
            *('dist_train.sh', 'tiny.py', '1', '--auto-scale-lr', '--cfg-options'),
            *OPTIONS,
            cwd=tmp_path,
            **dict(PORT=port, NNODES=2, NODE_RANK=node),
        )

    with ThreadPoolExecutor() as pool:
        output, other = pool.map(run_node, range(2))
    # Six images, two processes with two each.
    assert 'Epoch(train) [1][2/2]' in output and 'Epoch(train) [1][1/3]' not in output
    assert output.count('Saving checkpoint at 1 epochs') == 1  # by the first process
    assert 'Saving checkpoint' not in other
    run = Run(tmp_path / 'work_dirs' / 'tiny')
    checkpoint = run.read('epoch_1.pth')
    groups = checkpoint['optimizer']['param_groups'][:3]
    assert [g['initial_lr'] for g in groups] == [0.01 * 4 / 128] * 3

    of_one = start_two(tmp_path, 'one_machine', *OPTIONS)
    with ThreadPoolExecutor() as pool:  # where one hangs, both say where they are
        waits = [pool.submit(process.wait) for process in of_one]
    assert [wait.exception() or wait.result() for wait in waits] == [0, 0]
    expected = Run(tmp_path / 'one_machine')
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        parts = checkpoint[key], expected.read('epoch_1.pth')[key]
        assert find_differences(*parts) == []
    assert run.losses() == expected.losses() != {}

    output_of_test = run_tool(
        *('dist_test.sh', 'tiny.py', 'work_dirs/tiny/epoch_1.pth', '2', '--slice=40'),
        cwd=tmp_path,
        PORT=free_port(),
    )
    metric = r' coco/bbox_mAP: (\S+)'
    (of_test,) = re.findall(r' whole/coco/bbox_mAP: (\S+)', output_of_test)
    assert re.findall(metric, output) == [of_test]
    # Of all images, not of those of one process.
    assert '4 of 4 images are larger than a tile of 40 pixels' in output_of_test


@pytest.mark.parametrize('victim', ['rank 0', 'rank 1', 'launcher'])
def test_all_end_with_one(tmp_path, victim):
    """Within 30 s, with a message that names the rank."""
    write_tiny_run(tmp_path)
    pids = tmp_path / 'pids'
    options = (
        'train_cfg.max_epochs=1000',
        'train_cfg.val_interval=1000',
        'default_hooks.checkpoint.interval=1000',
    )

    def launch() -> None:
        ranks = start_two(tmp_path, 'run', *options)
        pids.with_suffix('.part').write_text(' '.join(str(r.pid) for r in ranks))
        pids.with_suffix('.part').rename(pids)
        time.sleep(600)

    launcher = fork(launch, tmp_path, 'launcher')
    try:
        log = tmp_path / 'run_0.log'
        wait_until(lambda: log.exists() and 'Epoch(train)' in log.read_text(), 120)
        ranks = [int(pid) for pid in pids.read_text().split()]
        dead = launcher.pid if victim == 'launcher' else ranks[int(victim[-1])]
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, ranks)), 30)
    finally:
        if is_running(launcher.pid):
            os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
    logs = [(tmp_path / f'run_{i}.log').read_text() for i in range(2)]
    if victim == 'launcher':
        for rank, text in enumerate(logs):
            message = f'the launcher of rank {rank} has ended, and it with it'
            assert f'mmnextvit: {message}' in text
        assert (tmp_path / 'run' / 'interrupted.pth').is_file()
    else:
        dead, left = (0, 1) if victim == 'rank 0' else (1, 0)
        message = f'rank {dead} has ended, and rank {left} with it'
        assert f'mmnextvit: {message}' in logs[left]
    assert not any('Traceback' in text for text in logs)
