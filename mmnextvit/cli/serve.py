"""Show what `export --to web` wrote in a browser.

Serves that folder on this machine only, at an address that is printed, until Ctrl-C.
"""

import argparse
from pathlib import Path

from ..utils.errors import Terminated
from .arguments import to_port

PORT = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', help='such a folder, or a file in it')
    parser.add_argument(
        '--port',
        type=to_port,
        default=PORT,
        metavar='N',
        help=f'where to listen ({PORT}); a free one if it is taken',
    )


def run(args: argparse.Namespace) -> None:
    from ..deploy.serve import find_web_folder, make_server

    folder = find_web_folder(Path(args.folder).expanduser())
    with make_server(folder, args.port) as server:
        if args.port not in (0, server.server_port):
            print(f'Port {args.port} is taken, or may not be used.')
        print(f'{folder}: {server.address} (Ctrl-C ends it)', flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Terminated):
                raise
            print('Ended.')
