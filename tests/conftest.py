"""What several test files share."""

import gc
import logging
import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import mmnextvit  # noqa: F401  (before anything that needs mmcv's ops)
from mmnextvit.deploy.formats import NEWEST_PYTHON
from mmnextvit.utils.errors import follow_causes
from mmnextvit.utils.packages import find_distribution

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

ROOT = Path(__file__).parents[1]

# Tests compute alike on all machines, and measure none: what decides has its own tests.
os.environ.setdefault('MMNEXTVIT_MEMORY_FORMAT', 'channels_last')
os.environ.setdefault('MMNEXTVIT_RECOMPUTE_NORMS', '1')

# A whole Next-ViT with every kind of block, small enough for many tests.
TINY = dict(
    depths=(1, 2, 5, 2),
    stem_channels=(32, 32, 32),
    ncb_channels=(32, 64, 64, 96),
    stage_channels=(32, 128, 128, 128),
)

fast_test: str | None = None

# How the absence of a package shows that an environment cannot have: to our code, to a
# test file and in a registry; and why it cannot. Elsewhere its absence fails tests.
ABSENT: list[tuple[str, str]] = []
if find_distribution('onedl-mmdetection'):
    ABSENT.append(
        (
            r"this needs MMYOLO, which is not installed|No module named 'mmyolo"
            r'|mmyolo is not installed|scope "mmyolo"|[\'`]mmyolo[.`]'
            r'|(YOLO|RTMDetHead|Verified)\w* is not in the',
            'needs MMYOLO, which the set onedl has not',
        )
    )
for library, newest in NEWEST_PYTHON.items():
    if sys.version_info[:2] > newest:
        pattern = f"{library} is not installed|No module named '{library}"
        ABSENT.append((pattern, f'needs {library}, which has none for this Python'))


def refuse_process(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: no fast test starts another Python. What asks git may go on."""
    starts_python = event == 'subprocess.Popen' and str(args[0]) == sys.executable
    if fast_test and (starts_python or event == 'os.fork'):
        raise AssertionError(f'{fast_test} starts a process: mark it as slow')


sys.addaudithook(refuse_process)


def pytest_collection_finish() -> None:
    """Has the garbage collector pass over all that the test files imported.

    MMEngine collects garbage for each dataset that it builds, which takes a third of a
    second with torch's objects in the heap, and next to none without.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none, and MMYOLO beside the fork."""
    if item.get_closest_marker('mmyolo') and find_distribution('onedl-mmdetection'):
        pytest.skip('needs MMYOLO, which the set onedl has not')
    if item.get_closest_marker('cuda') and not torch.cuda.is_available():
        pytest.skip('needs a GPU of CUDA')


def skip_for_absence(report: Any, place: tuple[str, int, str], text: str) -> None:
    """Makes of a failure a skip, where its cause is a package that cannot be there.

    Args:
        report: Of a file that was collected, or of a test that ran.
        place: File, line from 0 and name of what is skipped.
        text: What was raised, and what that was raised from.
    """
    reasons = [reason for pattern, reason in ABSENT if re.search(pattern, text)]
    if report.failed and reasons:
        report.outcome = 'skipped'
        report.longrepr = (place[0], place[1] + 1, f'Skipped: {reasons[0]}')


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skips a test file that imports what cannot be there."""
    report = yield
    place = (str(collector.path), 0, collector.name)
    skip_for_absence(report, place, str(report.longrepr))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips a test that came upon the absence of what cannot be there."""
    report = yield
    if call.excinfo is not None:
        path, line, name = item.reportinfo()
        links = map(str, follow_causes(call.excinfo.value))
        place = (str(path), line or 0, name)
        skip_for_absence(report, place, '\n'.join(links))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fails a test that starts a process and is not marked as slow.

    So that ``make check`` stays fast without anyone's watching.
    """
    global fast_test
    slow = item.get_closest_marker('slow') or item.get_closest_marker('deploy')
    fast_test = None if slow else item.nodeid
    try:
        return (yield)
    finally:
        fast_test = None


@pytest.fixture
def tiny() -> dict:
    return dict(TINY)


@pytest.fixture
def lively():
    """Gives BatchNorms the statistics of a trained net, so that no bug hides.

    Fresh ones (mean 0, variance 1, scale 1, shift 0) make nearly any bug invisible.
    """

    def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
        g = torch.Generator().manual_seed(seed)
        for m in model.modules():
            if isinstance(m, _BatchNorm):
                n = m.num_features
                m.weight.data = 0.5 + torch.rand(n, generator=g)
                m.bias.data = 0.3 * torch.randn(n, generator=g)
                m.running_mean = 0.3 * torch.randn(n, generator=g)
                m.running_var = 0.3 + 2 * torch.rand(n, generator=g)
        return model

    return randomise


@pytest.fixture
def load_config():
    """Reads one of our configs by name, with the scope that a Runner would set."""

    def load(name: str) -> Config:
        init_default_scope('mmyolo')
        return Config.fromfile(ROOT / 'configs' / f'{name}.py')

    return load


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture
def error():
    return relative_error


@pytest.fixture
def log(monkeypatch):
    """The warnings that MMEngine's logger gets."""
    lines = []

    def keep(record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())

    monkeypatch.setattr(MMLogger.get_current_instance(), 'handle', keep)
    return lines


@pytest.fixture
def coco(tmp_path):
    from tests.helpers.bad_data import Coco

    init_default_scope('mmyolo')
    return Coco(tmp_path)


@pytest.fixture
def voc(tmp_path):
    from tests.helpers.bad_data import Voc

    init_default_scope('mmyolo')
    return Voc(tmp_path)


@pytest.fixture
def yolo(tmp_path):
    from tests.helpers.bad_data import Yolo

    init_default_scope('mmyolo')
    return Yolo(tmp_path)
