"""The server of an exported page, and what ``mmnextvit serve`` says."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

from mmnextvit.deploy import serve
from mmnextvit.deploy.serve import find_web_folder, make_server
from mmnextvit.deploy.web_folder import FILES, METADATA, MODEL, RUNTIME, RUNTIME_FILES

import pytest

from tests.helpers.commands import refusal, run_here
from tests.helpers.toy_exports import write_onnx
from tests.helpers.web_pages import serving, write_toy_page

pytestmark = pytest.mark.deploy


@pytest.fixture
def folder(tmp_path) -> Path:
    """What ``export --to web`` writes, with three files of no meaning."""
    runtime = dict.fromkeys(RUNTIME_FILES, b'runtime')
    return write_toy_page(tmp_path / 'toy_web', runtime, write=write_onnx)


@pytest.fixture
def port(folder) -> Iterator[int]:
    server = make_server(folder, 0)
    with serving(server):
        yield server.server_port


def get(port: int, path: str, host: str | None = 'localhost', method: str = 'GET'):
    """The status, headers and content that a server answers with."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader('Host', f'{host}:{port}')
    connection.endheaders()
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def test_every_file_is_served(folder, port):
    for name in FILES:
        status, headers, content = get(port, f'/{name}')
        assert (status, content) == (200, (folder / name).read_bytes())
        assert headers['Cross-Origin-Opener-Policy'] == 'same-origin'
        assert headers['Cross-Origin-Embedder-Policy'] == 'require-corp'
        assert headers['X-Content-Type-Options'] == 'nosniff'
    assert get(port, '/')[2] == (folder / 'index.html').read_bytes()
    assert get(port, '/page.js')[1]['Content-Type'] == 'text/javascript'
    assert (
        get(port, f'/{RUNTIME}/ort-wasm-simd-threaded.wasm')[1]['Content-Type']
        == 'application/wasm'
    )


def test_nothing_else_is_served(folder, port):
    (folder / 'notes.txt').write_text('secret')
    (folder.parent / 'secret.txt').write_text('secret')
    wrong = ['/notes.txt', '/../secret.txt', '/%2e%2e/secret.txt', f'/{RUNTIME}/', '/x']
    for path in wrong:
        for method in ('GET', 'HEAD'):
            status, _, content = get(port, path, method=method)
            assert status == 404 and b'secret' not in content
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(folder.parent / 'secret.txt')
    status, _, content = get(port, f'/{MODEL}')
    assert status == 404 and b'secret' not in content
    assert get(port, '/page.js', method='POST')[0] == 501


@pytest.mark.parametrize('host', ['evil.example', '127.0.0.1.evil.example', '', None])
def test_other_names_for_this_machine_are_refused(folder, port, host):
    """A page elsewhere could have its own name lead here, and read what is served."""
    files = {(folder / name).read_bytes() for name in FILES}
    for path in ('/', f'/{MODEL}'):
        status, _, content = get(port, path, host)
        assert status == 421 and content not in files
        status, _, content = get(port, path, '127.0.0.1')
        assert status == 200 and content in files


def test_it_listens_on_this_machine_only_at_a_free_port(folder):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with make_server(folder, port) as server:
            assert server.server_address[0] == '127.0.0.1'
            assert server.server_port not in (0, port)
            assert server.address == f'http://127.0.0.1:{server.server_port}/'


def test_the_folder_is_found_by_what_is_in_it(folder):
    assert find_web_folder(folder) == folder
    assert find_web_folder(folder / 'index.html') == folder
    assert find_web_folder(folder / MODEL) == folder


def test_what_is_no_such_folder_is_refused(folder, tmp_path):
    def refuse(name: object) -> str:
        return refusal('serve', name, '--port', 0, cwd=tmp_path)

    assert 'nothing does not exist: mmnextvit export --to web' in refuse('nothing')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'model.pth').touch()
    assert 'other is not what mmnextvit export --to web writes' in refuse('other')
    assert 'is not what mmnextvit export' in refuse('other/model.pth')

    text = (folder / METADATA).read_bytes()
    for damaged in (b'{', b'\xff', b'{}', json.dumps({'format': 99}).encode()):
        (folder / METADATA).write_bytes(damaged)
        assert METADATA in refuse(folder)
    (folder / METADATA).write_bytes(text)

    (folder / MODEL).rename(tmp_path / 'moved.onnx')
    assert f'toy_web lacks {MODEL}: copy the whole folder' in refuse(folder)
    (folder / MODEL).symlink_to(tmp_path / 'moved.onnx')
    assert f'{MODEL} is a link to another place' in refuse(folder)
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(folder / MODEL)
    assert f'toy_web lacks {MODEL}' in refuse(folder)


def test_the_command_says_where_it_is_until_ctrl_c(
    folder, tmp_path, monkeypatch, capfd
):
    def interrupted(self) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.Server, 'serve_forever', interrupted)
    text = run_here('serve', folder, '--port', 0, cwd=tmp_path, capfd=capfd)
    assert 'toy_web: http://127.0.0.1:' in text and text.endswith('Ended.\n')
    for port in ('70000', '-1', 'x'):
        text = run_here(
            'serve', folder, f'--port={port}', cwd=tmp_path, capfd=capfd, code=2
        )
        assert f"'{port}' is not a port, 0 to 65535" in text
