"""A server on this machine for what ``mmnextvit export --to web`` writes."""

import errno
import os
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ..runtime import ModelFileError, parse_metadata
from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few
from .web_folder import FILES, METADATA, MODEL

HOST = '127.0.0.1'  # nothing outside this machine reaches it
# Another site's page could have its own name lead here, and so read what is served.
HOSTS = (HOST, 'localhost')
TAKEN = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)

# The system's own table of types may have no or other ones.
TYPES = {
    '.css': 'text/css',
    '.html': 'text/html',
    '.js': 'text/javascript',
    '.json': 'application/json',
    '.mjs': 'text/javascript',
    '.onnx': 'application/octet-stream',
    '.svg': 'image/svg+xml',
    '.wasm': 'application/wasm',
    '': 'text/plain',  # the licences
}
HEADERS = {
    'Cache-Control': 'no-cache',  # a new export is seen at once
    'X-Content-Type-Options': 'nosniff',
    # With these two a browser allows ONNX Runtime several threads.
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
}


def find_web_folder(path: Path) -> Path:
    """The folder that is, or has, ``path``, if ``export --to web`` wrote it.

    Raises:
        MissingFileError: There is nothing at ``path``.
        UserError: The folder is another one, or a part of it is missing or damaged.
    """
    if not path.exists():
        raise MissingFileError(
            f'{path} does not exist: mmnextvit export --to web writes such folders'
        )
    folder = path if path.is_dir() else path.parent
    missing = [name for name in FILES if not (folder / name).is_file()]
    linked = [name for name in FILES if not lies_in(folder, name)]
    if path.is_file() and path.name not in FILES:
        missing = [*FILES]
    if len(missing) == len(FILES):
        raise UserError(
            f'{path} is not what mmnextvit export --to web writes, which is a folder '
            f'with {FILES[0]}, {MODEL} and {METADATA}: export the checkpoint with it'
        )
    if missing:
        raise UserError(
            f'{folder} lacks {first_few(missing)}: copy the whole folder, or export '
            'the checkpoint again (mmnextvit export --to web)'
        )
    if linked:
        raise UserError(
            f'{folder / linked[0]} is a link to another place, and only what lies in '
            'the folder is served: copy the file there'
        )
    try:
        text = (folder / METADATA).read_text(encoding='utf-8')
        parse_metadata(text, folder / METADATA)
    except (ModelFileError, UnicodeDecodeError) as error:
        raise UserError(str(error), file=folder / METADATA) from error
    return folder


def lies_in(folder: Path, name: str) -> bool:
    """Whether a folder has a file itself, not by a link to another place."""
    return Path(os.path.realpath(folder / name)) == Path(os.path.realpath(folder), name)


class Server(ThreadingHTTPServer):
    """Answers on loopback."""

    daemon_threads = True
    allow_reuse_address = os.name != 'nt'  # there it lets two processes share a port

    @property
    def address(self) -> str:
        return f'http://{HOST}:{self.server_port}/'


class Handler(SimpleHTTPRequestHandler):
    """Gives out the files of such a folder, and nothing else that lies in it."""

    extensions_map = TYPES

    def send_head(self) -> BytesIO | BinaryIO | None:
        if self.headers.get('Host', '').partition(':')[0] not in HOSTS:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        name = unquote(urlsplit(self.path).path).lstrip('/') or FILES[0]
        if name not in FILES or not lies_in(Path(self.directory), name):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self.path = f'/{name}'
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def make_server(folder: Path, port: int) -> Server:
    """A server of a folder, which begins with its ``serve_forever``.

    Args:
        folder: As of :func:`find_web_folder`.
        port: Where it listens. If that is taken, or may not be used, it is one that is
            free; so it is for 0.

    Raises:
        OSError: It cannot listen at all.
    """
    handler = partial(Handler, directory=str(folder))
    try:
        return Server((HOST, port), handler)
    except OSError as error:
        if error.errno not in TAKEN or not port:
            raise
        return Server((HOST, 0), handler)
