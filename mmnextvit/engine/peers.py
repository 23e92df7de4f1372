"""Processes of one training that notice when another of them, or their launcher, ends.

What waits for a killed process in torch's code may wait for half an hour, and does not
know for whom. So each process keeps a connection to the first one, which its system
closes whenever it ends, however it ends.
"""

import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmengine.dist import broadcast_object_list, get_rank, get_world_size

from ..utils.errors import UserError
from ..utils.messages import first_few, tell

BYE = 255  # what a process sends that ends as it should
TOKEN = 16  # bytes, by which the processes of a training know each other
WAIT = 60  # seconds until all processes must have connected
PATIENCE = 20  # seconds to save and end after the launcher, before all ends
ADVICE = (
    'The processes may have ended, or a firewall keeps the machines apart: they need '
    'each other at every port, and MASTER_ADDR must be the address of the first'
)


@contextmanager
def watch_peers(launcher: str) -> Iterator[None]:
    """Ends this process soon after another one of the training, or the launcher, ends.

    A message names the rank that ended first. After the launcher's end the processes
    get SIGTERM, as it would have sent it.

    Args:
        launcher: What started the processes, by MMEngine's name.
    """
    if get_world_size() == 1:
        yield
        return
    watch = PeerWatch(launcher)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        yield
    except Exception:
        # What was raised may be about the end of another, which is noticed by now.
        if watch.others_left():
            time.sleep(1)
        raise
    except BaseException:
        watch.say_bye()
        raise
    watch.say_bye()


class PeerWatch:
    """The connections of one process.

    Args:
        launcher: What started the processes.
    """

    def __init__(self, launcher: str) -> None:
        self.rank = get_rank()
        self._parent = os.getppid() if launcher == 'pytorch' else None
        self._peers = connect()

    def others_left(self) -> bool:
        """Whether any other process is connected."""
        return bool(self._peers)

    def say_bye(self) -> None:
        """Tells the others that this process ends as it should."""
        for peer in [*self._peers]:
            with suppress(OSError):
                peer.sendall(bytes([BYE]))

    def run(self) -> None:
        """Waits for the end of another, for as long as this process lives."""
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer, selectors.EVENT_READ, data=peer)
            while True:
                for key, _ in selector.select(timeout=1):
                    self._hear(key.data)
                    if key.data not in self._peers:
                        selector.unregister(key.data)
                if self._parent is not None and os.getppid() != self._parent:
                    self._end_after_launcher()
                    self._parent = None

    def _hear(self, peer: socket.socket) -> None:
        """Takes what another process sent, or its end."""
        rank = self._peers[peer]
        try:
            heard = peer.recv(4)
        except OSError:
            heard = b''
        if heard[:1] == bytes([BYE]):
            del self._peers[peer]
            return
        if len(heard) == 4:  # the first process tells of another
            rank = int.from_bytes(heard, 'big')
        for other in self._peers:
            with suppress(OSError):
                other.sendall(rank.to_bytes(4, 'big'))
        print(
            f'mmnextvit: rank {rank} has ended, and rank {self.rank} with it',
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    def _end_after_launcher(self) -> None:
        print(
            f'mmnextvit: the launcher of rank {self.rank} has ended, and it with it',
            file=sys.stderr,
            flush=True,
        )
        os.kill(os.getpid(), signal.SIGTERM)
        ending = threading.Timer(PATIENCE, os._exit, args=(128 + signal.SIGTERM,))
        ending.daemon = True
        ending.start()


def connect() -> dict[socket.socket, int]:
    """The first process's connections to all others, or the one to the first.

    Returns:
        Each connection with the rank at its other end. All processes take part.

    Raises:
        UserError: A process is not connected in time.
    """
    host = os.environ.get('MASTER_ADDR', '127.0.0.1')
    if get_rank() == 0:
        with open_server() as server:
            token = secrets.token_bytes(TOKEN)
            broadcast_object_list([(server.getsockname()[1], token)])
            peers = dict(accept(server, token))
    else:
        found: list = [None]
        broadcast_object_list(found)
        port, token = found[0]
        peer = reach_first(host, port)
        peer.sendall(token + get_rank().to_bytes(4, 'big'))
        peers = {peer: 0}
    for peer in peers:
        peer.settimeout(None)
        keep_alive(peer)
    return peers


def open_server() -> socket.socket:
    """A server at a free port, for IPv4 and IPv6 where one can be for both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ('', 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
    return socket.create_server(('', 0))


def reach_first(host: str, port: int) -> socket.socket:
    """A connection to the first process.

    Raises:
        UserError: There is none.
    """
    try:
        return socket.create_connection((host, port), timeout=WAIT)
    except OSError as error:
        raise UserError(
            f'rank {get_rank()} does not reach rank 0 at {host}, port {port} '
            f'({tell(error)}). {ADVICE}'
        ) from error


def accept(server: socket.socket, token: bytes) -> Iterator[tuple[socket.socket, int]]:
    """Takes a connection of each other process, and of nothing else.

    Raises:
        UserError: Some do not come in time; it names them.
    """
    until = time.monotonic() + WAIT
    waiting = set(range(1, get_world_size()))
    while waiting:
        server.settimeout(max(until - time.monotonic(), 0.001))
        try:
            peer, _ = server.accept()
        except TimeoutError as error:
            ranks = first_few(map(str, sorted(waiting)), 8)
            raise UserError(
                f'rank 0 has not heard within {WAIT} s from: rank {ranks}. {ADVICE}'
            ) from error
        peer.settimeout(10)
        with suppress(OSError):
            heard = peer.recv(TOKEN + 4, socket.MSG_WAITALL)
            rank = int.from_bytes(heard[TOKEN:], 'big')
            if secrets.compare_digest(heard[:TOKEN], token) and rank in waiting:
                waiting.remove(rank)
                yield peer, rank
                continue
        peer.close()


def keep_alive(peer: socket.socket) -> None:
    """Has the system notice within 25 s that the other machine is gone."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in dict(TCP_KEEPIDLE=10, TCP_KEEPINTVL=5, TCP_KEEPCNT=3).items():
        if hasattr(socket, name):  # not on every system
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
