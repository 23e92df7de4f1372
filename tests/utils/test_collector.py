"""The garbage collector's rest while data are read."""

import gc

from mmnextvit.utils.collector import resting_collector

import pytest


@pytest.fixture
def thawed():
    """Nothing is frozen, as in a user's process."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


@pytest.mark.usefixtures('thawed')
def test_it_rests_in_the_block_alone():
    with pytest.raises(KeyError), resting_collector():
        assert not gc.isenabled() and gc.get_freeze_count()
        with resting_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()  # the inner block leaves the outer one its rest
        raise KeyError
    assert gc.isenabled() and not gc.get_freeze_count()


@pytest.mark.usefixtures('thawed')
def test_what_a_user_has_set_stays():
    gc.disable()
    try:
        with resting_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    with resting_collector():
        assert gc.get_freeze_count() == frozen
    assert gc.get_freeze_count() == frozen
