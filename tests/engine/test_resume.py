"""A run that stops anywhere and goes on ends as one that never stopped, bit for bit."""

import pytest

from tests.helpers.random_run import assert_same_end, train, write_random_run

pytestmark = pytest.mark.slow

KEPT = 'use_cached=True, max_cached_images=6'
RUNS = {
    'mosaic, mixup and drop path': dict(),
    'workers, and no seed in the config': dict(WORKERS=2, SEED=None),
    'kept images': dict(WORKERS=2, OTHERS_OF_MOSAIC=KEPT, OTHERS_OF_MIXUP=KEPT),
    'summed batches': dict(NOMINAL=6),
}


@pytest.mark.parametrize('on', RUNS)
def test_resumed_run_equals_the_whole(tmp_path, on):
    """Of two epochs with three batches the second batch, and all after it."""
    write_random_run(tmp_path, **RUNS[on])
    whole = train(tmp_path, 'whole')
    half = whole.read('iter_2.pth')
    assert half['meta']['progress']['batches_done'] == 2
    resumed = train(tmp_path, 'resumed', '--resume', whole.work_dir / 'iter_2.pth')
    assert [*resumed.losses()] == [3, 4, 5, 6]
    assert_same_end(resumed, whole, 'iter_6.pth')
    gradients = half['meta']['progress']['gradients']
    assert (gradients != [{}]) == (on == 'summed batches')
