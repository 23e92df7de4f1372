"""What a run has logged, of all its starts."""

import json

from mmnextvit.report.history import is_loss, is_rate, join_starts, read_history

import pytest


def trained(*iters, length=10, **values):
    """Records of training; an epoch has so many iterations."""
    return [
        dict(iter=i, step=i, epoch=(i - 1) // length + 1, loss=100 - i, **values)
        for i in iters
    ]


def validated(step, value):
    return {'coco/bbox_mAP': value, 'step': step}


def test_one_start():
    records = [*trained(5, 10), validated(1, 0.1), *trained(15, 20), validated(2, 0.2)]
    history = join_starts([records])
    assert history.by_epoch and history.epoch_length == 10 and not history.restarts
    assert history.trace('loss') == ([0.5, 1, 1.5, 2], [95, 90, 85, 80])
    assert history.trace('coco/bbox_mAP', validation=True) == ([1, 2], [0.1, 0.2])
    assert history.list_names() == ['loss']
    assert history.trace('nothing') == ([], [])


def test_a_resumed_run_has_the_whole_curve_once():
    """Killed in its third epoch, resumed from the first, killed, resumed again."""
    first = [*trained(5, 10), validated(1, 0.1), *trained(15, 20), validated(2, 0.9)]
    first += trained(25)
    second = [*trained(15, 20, grad_norm=1.0), validated(2, 0.2), *trained(25, 30)]
    third = [validated(3, 0.3), *trained(35, 40), validated(4, 0.4)]
    history = join_starts([first, second, [], third])
    assert [r['iter'] for r in history.train] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert history.trace('grad_norm')[0] == [1.5, 2]  # the second start's, not first's
    assert history.trace('coco/bbox_mAP', True) == ([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    assert history.restarts == [1.5, 3.5]


def test_what_came_after_the_checkpoint_is_forgotten():
    """A run that goes on from an old checkpoint and is stopped before it is as far."""
    first = [*trained(10), validated(1, 0.1), *trained(20, 30), validated(3, 0.9)]
    history = join_starts([first, trained(20)])
    assert [r['iter'] for r in history.train] == [10, 20]
    assert history.trace('coco/bbox_mAP', True) == ([1], [0.1])


def test_iterations_without_epochs():
    records = [dict(iter=i, step=i, loss=1.0) for i in (50, 100)] + [validated(100, 1)]
    history = join_starts([records])
    assert not history.by_epoch
    assert history.trace('loss')[0] == [50, 100]
    assert history.trace('coco/bbox_mAP', True)[0] == [100]


@pytest.mark.parametrize('length, interval', [(26, 5), (7, 50), (100, 30), (1, 1)])
def test_the_length_of_an_epoch_follows_from_what_is_logged(length, interval):
    """MMEngine logs every so many iterations of an epoch, or else its last one."""
    inner = range(interval, length + 1, interval)
    inner = list(inner) or [length]
    iters = [epoch * length + i for epoch in range(40) for i in inner]
    assert join_starts([trained(*iters, length=length)]).epoch_length == length


def test_files_of_all_starts_are_read_in_order(tmp_path):
    starts = {'20260102_000000': trained(20), '20260101_000000': trained(10, 20, 30)}
    for name, records in starts.items():
        file = tmp_path / name / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        lines = [json.dumps(record) for record in records]
        # A killed process leaves half a line.
        file.write_text('\n'.join([*lines, '["no record"]', '{"loss": 1, "it']))
    other = tmp_path / 'test' / '20260103_000000' / 'vis_data' / 'scalars.json'
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(dict(iter=99, step=99, loss=0)))
    history = read_history(tmp_path)
    assert [r['iter'] for r in history.train] == [10, 20]
    assert not read_history(tmp_path / 'nothing').train


def test_what_a_number_is():
    assert all(map(is_loss, ('loss', 'loss_cls', 'val/loss', 'val/loss_bbox')))
    assert not any(map(is_loss, ('coco/bbox_mAP', 'lr', 'closs', 'grad_norm')))
    assert is_rate('lr') and is_rate('base_lr') and not is_rate('lrs')
