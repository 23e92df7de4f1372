"""Every config resolves to what it did: models, data, hooks, schedules, evaluators.

Where a change is meant, ``python -m tests.helpers.resolved_configs`` writes the new
digests; the commit's message then says which values changed and why.
"""

import json

import pytest

from tests.helpers.resolved_configs import GOLDEN, config_files, digests

RESOLVED = json.loads(GOLDEN.read_text())


def test_every_config_has_digests():
    assert list(RESOLVED) == [path.stem for path in config_files()]


@pytest.mark.parametrize('path', config_files(), ids=lambda path: path.stem)
def test_config_resolves_to_what_it_did(path):
    now, before = digests(path), RESOLVED[path.stem]
    changed = [part for part in now | before if now.get(part) != before.get(part)]
    assert not changed
