"""Values of configs that cannot be: what is wrong, in terms of the config."""

from mmnextvit.engine import config_faults
from mmnextvit.engine.config_faults import check_numbers, explain_build_error
from mmnextvit.engine.runner import build_runner
from mmnextvit.utils.errors import UserError

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

THINGS = Registry('thing')


class Base:
    def __init__(self, width: int = 1) -> None:
        self.width = width


@THINGS.register_module()
class Wheel(Base):
    def __init__(self, spokes: int = 8, **kwargs: int) -> None:
        super().__init__(**kwargs)
        self.spokes = spokes


@THINGS.register_module()
def make_axle(length: int) -> int:
    return length


@THINGS.register_module()
class Cart:
    def __init__(self, wheel: dict) -> None:
        self.wheel = THINGS.build(wheel)


@THINGS.register_module()
class Buggy:
    def __init__(self, width: int = 1) -> None:
        dict().pop('missing') if width else make_axle(depth=1)


def explain(cfg: dict) -> str | None:
    with pytest.raises((KeyError, TypeError)) as error:
        THINGS.build(cfg)
    explained = explain_build_error(error.value, 'a.py')
    return None if explained is None else str(explained)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='Weel'),
            "a.py: type 'Weel': there is no such thing: did you mean Wheel?",
        ),
        (
            dict(type='xyz'),
            "a.py: type 'xyz': there is no such thing: there are Buggy, Cart, Wheel, "
            'make_axle',
        ),
        (
            dict(type='Cart', wheel=dict(type='weel')),
            "a.py: type 'weel': there is no such thing: did you mean Wheel?",
        ),
        (
            dict(type='Wheel', spoke=3),
            "a.py: Wheel has no argument 'spoke': did you mean spokes?",
        ),
        (
            dict(type='Wheel', wide=3),
            "a.py: Wheel has no argument 'wide': did you mean width?",
        ),
        (
            dict(type='Cart', wheel=dict(type='Wheel', x=1)),
            "a.py: Wheel has no argument 'x': there are spokes, width",
        ),
        (
            dict(type='make_axle', lenght=3),
            "a.py: make_axle has no argument 'lenght': did you mean length?",
        ),
    ],
)
def test_what_cannot_be_built_is_named_with_similar_names(cfg, message):
    assert explain(cfg) == message


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='Buggy'),
        dict(type='Buggy', width=0),
        dict(type='make_axle'),
        dict(width=3),
    ],
)
def test_other_errors_stay(cfg):
    assert explain(cfg) is None
    assert explain_build_error(KeyError('x is not in the registry')) is None


GOOD = dict(
    train_cfg=dict(max_epochs=1, val_interval=1),
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False),
    val_dataloader=dict(batch_size=2, num_workers=1, persistent_workers=True),
    test_dataloader=dict(batch_size=1, num_workers=0),
    randomness=dict(seed=None),
)


def test_numbers_that_can_be():
    check_numbers(Config(GOOD))
    check_numbers(Config(dict(train_cfg=None)))
    check_numbers(Config(dict(train_dataloader=DataLoader([1]))))
    check_numbers(Config(dict(randomness=dict(seed=2**32 - 1))))


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('train_cfg.val_interval', 0, '0 must be a whole number from 1 on'),
        ('train_cfg.max_epochs', -1, '-1 must be a whole number from 1 on'),
        ('train_cfg.max_epochs', 1.5, '1.5 must be a whole number from 1 on'),
        ('train_cfg.max_iters', 0, '0 must be a whole number from 1 on'),
        ('train_dataloader.batch_size', 0, '0 must be a whole number from 1 on'),
        ('train_dataloader.batch_size', 'two', "'two' must be a whole number from 1"),
        ('val_dataloader.batch_size', True, 'True must be a whole number from 1 on'),
        ('test_dataloader.num_workers', -1, '-1 must be a whole number from 0 on'),
        ('randomness.seed', -1, '-1 must be None or a whole number from 0 to 42949672'),
        ('randomness.seed', 2**32, '4294967296 must be None or a whole number from 0'),
        (
            'train_dataloader.persistent_workers',
            True,
            'no workers .* cannot be kept: write train_dataloader.persistent_workers=F',
        ),
    ],
)
def test_numbers_that_cannot_be(key, value, message, monkeypatch):
    cfg = Config(GOOD)
    cfg.merge_from_dict({key: value})
    monkeypatch.setattr(Runner, 'from_cfg', None)  # before anything is built
    with pytest.raises(UserError, match=f'^{key}: {message}'):
        build_runner(cfg)


def test_errors_in_a_ring_end():
    error = KeyError('x is not in the registry')
    error.__cause__ = error
    assert explain_build_error(error) is None


def test_types_of_mmyolo_where_it_is_missing(monkeypatch):
    """Names that are near, of other packages, would lead astray."""
    monkeypatch.setattr(config_faults, 'has_mmyolo', lambda: False)
    missing = 'this needs MMYOLO, which is not installed. Install it with: pip install '
    assert missing in str(explain(dict(type='mmyolo.Weel')))
    with DefaultScope.overwrite_default_scope('mmyolo'):
        assert missing in str(explain(dict(type='Weel')))
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert 'did you mean Wheel?' in str(explain(dict(type='Weel')))
