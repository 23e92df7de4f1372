"""What a user waits for: lines of processes, and their times beside others'."""

from mmnextvit.benchmark import waits
from mmnextvit.benchmark.report import make_startup_table
from mmnextvit.benchmark.startup import Startup
from mmnextvit.benchmark.waits import END, LIBRARIES, Wait, compare, prepare, time_lines

import pytest

SAYS = 'import time; print("one", flush=True); time.sleep(0.2); print("two")'


@pytest.mark.slow
def test_lines_are_timed_and_the_process_is_ended():
    endless = SAYS.replace('"two"', '"two", flush=True')
    one, two = time_lines(['-c', f'{endless}; time.sleep(1000)'], ['^on', 'o$'])
    assert 0 < one < two
    (end,) = time_lines(['-c', SAYS], [END])
    assert end > 0.2
    for code, patterns in ((SAYS, ['^two', '^one']), ('raise SystemExit(3)', [END])):
        with pytest.raises(RuntimeError, match='-c'):
            time_lines(['-c', code], patterns)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['train', 'predict', 'export'])
def test_commands_say_the_lines_that_are_waited_for(name, tmp_path):
    paths = prepare(tmp_path)
    process = waits.PROCESSES[name]
    words = [word.format(**paths, new=tmp_path / 'new') for word in process.arguments]
    times = time_lines(words, [*process.lines.values()])
    assert len(times) == len(process.lines) and times == sorted(times)


def test_waits_are_compared_and_end_the_table(monkeypatch):
    base = waits.Process(('-c', 'pass'))
    train = waits.Process((), {'first line': 'a', 'summary': 'b'})
    monkeypatch.setattr(waits, 'PROCESSES', {LIBRARIES: base, 'train': train})
    found = [
        *compare(
            {
                (LIBRARIES, ''): [1.0, 4.0, 9.0],
                ('train', 'first line'): [5.0, 1.0, 0.0],
                ('train', 'summary'): [5.0, 6.0, 50.0],
            }
        )
    ]
    assert found == [
        Wait(LIBRARIES, 4, LIBRARIES, 1),
        Wait('train: first line', 1, LIBRARIES, 0.25),
        Wait('train: summary', 6, LIBRARIES, 1.5),
    ]
    rows = make_startup_table(Startup(4, 5, 0.5), 'small', found).rows
    assert len(rows) == 6
    assert rows[-1] == ['train: summary', '6.00', f'1.50 of {LIBRARIES}']
