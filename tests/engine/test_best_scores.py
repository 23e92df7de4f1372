"""Best scores in checkpoints: those of their weights, and nothing else changes."""

import os
from pathlib import Path

from mmnextvit.engine.best_scores import find_differences, store_best_scores
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.contents import read_best_scores

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from tests.helpers import scripted_run
from tests.helpers.matchings import make_sample, match
from tests.helpers.scripted_run import build_scripted_run

pytestmark = pytest.mark.slow  # it trains, for milliseconds

SCORES = [0.1, 0.3, 0.2, 0.4]  # a new best after epochs 1, 2 and 4
BEST = {'all': 0.4, 'classes': {'cat': 0.35}}


def make_matching(score: float):
    """One whose best score lies between this one and a quarter of it."""
    truth = [dict(bbox=[0, 0, 50, 50], bbox_label=0, ignore_flag=0)]
    boxes = [[0, 0, 50, 50], [0, 100, 50, 150]]
    return match(make_sample(0, truth, boxes, [0, 0], [score, score / 4]))


def read(path: Path) -> dict:
    return torch.load(path, weights_only=False)


class SaveLater(Hook):
    """Saves after a validation, and after the next iteration."""

    priority = 'VERY_LOW'

    def after_val_epoch(self, runner, metrics=None):
        runner.save_checkpoint(runner.work_dir, f'validated_{runner.iter}.pth')

    def after_train_iter(self, runner, *args, **kwargs):
        runner.save_checkpoint(runner.work_dir, f'trained_{runner.iter + 1}.pth')


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """The folder of a run of four epochs, each with other best scores."""
    folder = tmp_path_factory.mktemp('run')
    matchings = iter([make_matching(score) for score in (0.8, 0.6, 0.4, 0.16)])

    class Matched(scripted_run.Scores):
        def compute_metrics(self, results):
            self.matching = next(matchings)
            return super().compute_metrics(results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripted_run, 'Scores', Matched)
        hooks = dict(type='BestScoresHook'), SaveLater()
        build_scripted_run(folder, SCORES, hooks=hooks).train()
    return folder


def test_checkpoints_have_the_scores_of_their_weights(run):
    """None that was saved before the validation of its weights, or trained since."""
    scores = {
        path.stem: read(path)['meta'].get('best_scores') for path in run.glob('*.pth')
    }
    # The middle of 0.2 and 0.8, of 0.15 and 0.6, and so on.
    found = [scores.pop(f'validated_{iteration}') for iteration in (2, 4, 6, 8)]
    wanted = [{'all': s, 'classes': {'cat': s}} for s in (0.5, 0.38, 0.25, 0.1)]
    assert found == wanted
    assert scores.pop('best_score_epoch_4') == wanted[3]
    # Other names of the best one and the newest one.
    assert [scores.pop(name) for name in ('best', 'last')] == [wanted[3]] * 2
    # MMEngine saves an epoch's checkpoint again where the epoch is the best so far.
    own = [scores.pop(f'epoch_{epoch}') for epoch in (1, 2, 3, 4)]
    assert own == [wanted[0], wanted[1], None, wanted[3]]
    assert len(scores) == 8 and not any(scores.values())  # after each iteration


def test_storing_changes_nothing_else(run):
    """Not the optimizer, the history or the config; and then nothing at all."""
    path = run / 'epoch_3.pth'
    before = read(path)
    assert before['optimizer']['state'] and 'cfg' in before['meta']
    assert store_best_scores(path, BEST)
    after = read(path)
    assert read_best_scores(after, 'it') == BEST
    assert after['meta'].pop('best_scores') == BEST
    assert list(find_differences(before, after)) == []
    first = path.read_bytes()
    assert not store_best_scores(path, BEST)
    assert path.read_bytes() == first
    other = {'all': 0.1, 'classes': {}}
    assert store_best_scores(path, other)
    assert read(path)['meta']['best_scores'] == other


def test_links_are_followed_within_the_folder_only(run, tmp_path):
    link, away = run / 'link.pth', tmp_path / 'link.pth'
    for path in (link, away):
        os.symlink(run / 'epoch_1.pth', path)
    with pytest.raises(UserError, match='lies in another folder'):
        store_best_scores(away, BEST)
    assert store_best_scores(link, BEST) and link.is_symlink()
    assert read(run / 'epoch_1.pth')['meta']['best_scores'] == BEST
    link.unlink()


def test_every_name_of_a_file_stands_for_the_same(run, tmp_path):
    """As best.pth does for the checkpoint that was best."""
    for name in ('last_checkpoint', 'epoch_4.pth'):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    os.link(tmp_path / 'epoch_4.pth', tmp_path / 'best.pth')
    other = tmp_path / 'other.pth'
    other.write_bytes((run / 'epoch_4.pth').read_bytes())
    assert store_best_scores(tmp_path / 'best.pth', BEST)
    assert (tmp_path / 'epoch_4.pth').samefile(tmp_path / 'best.pth')
    assert read(tmp_path / 'epoch_4.pth')['meta']['best_scores'] == BEST
    assert read(other)['meta']['best_scores'] != BEST


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c.pop('meta'), 'no checkpoint in the folder of a run'),
        (lambda c: c['meta'].pop('experiment_name'), 'no checkpoint in the folder'),
        (
            lambda c: c.update(more=[np.dtype('int8')]),
            r'more\[0\]: this cannot be written',
        ),
        (lambda c: c.update(more=Path('a')), 'refused'),
    ],
)
def test_other_files_stay_as_they_are(run, tmp_path, change, message):
    content = read(run / 'epoch_2.pth')
    change(content)
    torch.save(content, tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    before = (tmp_path / 'epoch_2.pth').read_bytes()
    with pytest.raises(UserError, match=message):
        store_best_scores(tmp_path / 'epoch_2.pth', BEST)
    assert (tmp_path / 'epoch_2.pth').read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_files_outside_of_a_run_stay_as_they_are(run, tmp_path):
    file = tmp_path / 'epoch_2.pth'
    file.write_bytes((run / 'epoch_2.pth').read_bytes())
    with pytest.raises(UserError, match='no checkpoint in the folder of a run'):
        store_best_scores(file, BEST)


def test_differences_are_named():
    one = dict(a=[1, dict(b=torch.tensor([1.0, float('nan')]))], c=float('nan'))
    assert list(find_differences(one, one)) == []
    other = dict(a=[1, dict(b=torch.tensor([1.0, 2.0]))], c=2.0)
    assert list(find_differences(one, other)) == ['a[1].b', 'c']
    assert list(find_differences([1], [1.0])) == ['[0]']
    assert list(find_differences(dict(a=1, b=2), dict(b=2, a=1))) == ['']
    assert list(find_differences(dict(a=object()), dict(a=object()))) == ['a']
