"""Where the page's ONNX Runtime Web comes from, with a package of a few bytes."""

import hashlib
import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mmnextvit.deploy import web_runtime
from mmnextvit.deploy.web_folder import RUNTIME_FILES
from mmnextvit.utils.errors import MissingFileError, MissingPackageError, UserError

import pytest

pytestmark = pytest.mark.deploy
COPY = shutil.which('cp')  # which the tests' PATH does not have
CONTENT = {name: random.Random(name).randbytes(3000) for name in RUNTIME_FILES}


def write_package(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, 'w:gz') as package:
        for name, part in content.items():
            member = tarfile.TarInfo(f'package/dist/{name}')
            member.size = len(part)
            package.addfile(member, io.BytesIO(part))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A user's cache that is empty; the pinned files are those of CONTENT."""
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in CONTENT.items()}
    monkeypatch.setattr(web_runtime, 'RUNTIME_FILES', digests)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return web_runtime.find_cache()


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Puts a script of that text in the place of npm; an empty one removes npm."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))

    def install(text: str) -> None:
        script = folder / 'npm'
        script.unlink(missing_ok=True)
        if text:
            script.write_text(f'#!/bin/sh\n{text}\n')
            script.chmod(0o755)

    return install


@pytest.fixture
def packed(tmp_path) -> Path:
    return write_package(tmp_path / 'onnxruntime-web.tgz', CONTENT)


def read(source: Path | None) -> dict[str, bytes]:
    return web_runtime.read_runtime(source, lambda text: None)


def fetching(packed: Path) -> str:
    """A script that does what ``npm pack`` does with its last argument."""
    return f'for last; do :; done; {COPY} "{packed}" "$last/package.tgz"'


def test_a_package_is_read_packed_or_as_a_folder(packed, tmp_path, cache):
    assert read(packed) == CONTENT
    plain = tmp_path / 'plain'
    inner = tmp_path / 'node_modules' / 'dist'
    for folder in (plain, inner):
        folder.mkdir(parents=True)
        for name, part in CONTENT.items():
            (folder / name).write_bytes(part)
    assert read(plain) == read(inner.parent) == CONTENT
    assert not cache.exists()  # what a user names is theirs to keep


def test_what_is_no_such_package_is_refused(packed, tmp_path):
    with pytest.raises(MissingFileError, match='no.tgz does not exist: run "npm pack'):
        read(tmp_path / 'no.tgz')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.tgz').write_text('no package')
    other = {**CONTENT, 'ort.wasm.min.mjs': b'another'}
    less = dict(list(CONTENT.items())[:2])
    wrong = {
        tmp_path / 'empty': 'is not the package onnxruntime-web.* is missing',
        tmp_path / 'text.tgz': 'is not the package onnxruntime-web',
        write_package(
            tmp_path / 'less.tgz', less
        ): 'is not the package onnxruntime-web',
        write_package(
            tmp_path / 'other.tgz', other
        ): 'has another ort.wasm.min.mjs than',
    }
    for path, message in wrong.items():
        with pytest.raises(UserError, match=f'{path.name} {message}') as error:
            read(path)
        assert error.match('--onnxruntime-web FILE')


def test_damaged_packages_are_refused(packed):
    """Cut anywhere, or with a byte changed."""
    whole = packed.read_bytes()
    for place in range(0, len(whole) - 8, len(whole) // 60):
        flipped = bytearray(whole)
        flipped[place] ^= 255
        for content in (whole[:place], bytes(flipped)):
            packed.write_bytes(content)
            with suppress(UserError):
                assert read(packed) == CONTENT  # as where a header says the time
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match='or is damaged'):
        read(packed)


def test_npm_is_asked_once(packed, npm, cache):
    said: list[str] = []
    npm(fetching(packed))
    assert web_runtime.read_runtime(None, said.append) == CONTENT
    assert said == [f'Fetching {web_runtime.PACKAGE} ...']
    npm('')
    assert web_runtime.read_runtime(None, said.append) == CONTENT
    assert len(said) == 1 and {file.name for file in cache.iterdir()} == {*CONTENT}


def test_a_damaged_cache_is_fetched_anew(packed, npm, cache):
    npm(fetching(packed))
    read(None)
    (cache / 'ort.wasm.min.mjs').write_bytes(b'cut')
    assert read(None) == CONTENT
    npm('')
    assert read(None) == CONTENT  # it was mended


def test_a_cache_that_cannot_be_written_does_no_harm(packed, npm, cache):
    npm(fetching(packed))
    cache.parent.parent.write_text('a file where the folder would be')
    assert read(None) == CONTENT


def test_without_npm(npm):
    with pytest.raises(MissingPackageError, match='npm is not installed: install Node'):
        read(None)


@pytest.mark.parametrize(
    ('script', 'reason'),
    [
        (
            'echo "npm error code ENOTFOUND\nnpm error no network" >&2; exit 1',
            'no netw',
        ),
        ('exit 1', 'it does not say why'),
        ('exit 0', 'it does not say why'),
    ],
)
def test_npm_fails(npm, script, reason):
    npm(script)
    with pytest.raises(MissingFileError, match=rf'npm could not fetch it \({reason}'):
        read(None)


def test_npm_gives_another_package(npm, tmp_path, cache):
    other = write_package(
        tmp_path / 'other.tgz', {**CONTENT, 'ort.wasm.min.mjs': b'another'}
    )
    npm(fetching(other))
    with pytest.raises(UserError, match=r'has another ort\.wasm\.min\.mjs'):
        read(None)
    assert not os.path.lexists(cache)
