"""Which checkpoint a run continues from, and what options make of a config."""

from mmnextvit.engine.training import checkpoint_to_resume

import pytest


def test_which_checkpoint_is_resumed(tmp_path, monkeypatch, capsys):
    resume = checkpoint_to_resume
    run, other = tmp_path / 'run', tmp_path / 'other.pth'
    other.touch()
    assert resume(run, None) is None  # a new folder
    assert resume(run, 'latest') is None
    assert 'holds no checkpoint: a new run begins' in capsys.readouterr().out
    assert resume(run, str(other)) == str(other)
    run.mkdir()
    (run / 'epoch_3.pth').touch()
    (run / 'last_checkpoint').write_text('/gone/run/epoch_3.pth')
    assert resume(run, 'latest') == str(run / 'epoch_3.pth')
    assert resume(run, str(run / 'epoch_3.pth')) == str(run / 'epoch_3.pth')
    with pytest.raises(ValueError, match='holds another run'):
        resume(run, None)
    monkeypatch.setenv('RANK', '1')  # only the first process looks
    assert resume(run, None) is None
    (run / 'last_checkpoint').write_text('/gone/run/epoch_4.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint names .*epoch_4.pth'):
        resume(run, 'latest')
    with pytest.raises(
        FileNotFoundError, match='checkpoint nowhere.pth does not exist'
    ):
        resume(run, 'nowhere.pth')
