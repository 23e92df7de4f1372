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


@pytest.mark.usefixtures('thawed')
def test_what_a_user_has_frozen_stays():
    """Their number tells nothing: it falls where a frozen object is freed."""
    theirs: list = []
    gc.freeze()
    ours: list = []
    with resting_collector():
        assert is_frozen(theirs) and not is_frozen(ours)
        assert not gc.isenabled()  # it rests all the same
    assert gc.isenabled()
    assert is_frozen(theirs) and not is_frozen(ours)


def is_frozen(thing: list) -> bool:
    """Whether the collector passes over a thing."""
    return all(each is not thing for each in gc.get_objects())
