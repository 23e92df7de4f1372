"""Processes of one training find each other, or say who is missing."""

import socket

from mmnextvit.engine import peers
from mmnextvit.utils.errors import UserError

import pytest

TOKEN = bytes(range(peers.TOKEN))


@pytest.fixture
def three_processes(monkeypatch):
    monkeypatch.setattr(peers, 'get_world_size', lambda: 3)
    monkeypatch.setattr(peers, 'get_rank', lambda: 2)
    monkeypatch.setattr(peers, 'WAIT', 0.2)


def introduce(host: str, port: int, rank: int, token: bytes = TOKEN) -> socket.socket:
    peer = socket.create_connection((host, port), timeout=10)
    peer.sendall(token + rank.to_bytes(4, 'big'))
    return peer


def has_ipv6() -> bool:
    """Whether the machine has an address of its own of that kind."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


def test_processes_connect_by_ipv4_and_ipv6(three_processes):
    hosts = ['127.0.0.1', '::1' if has_ipv6() else '127.0.0.1']
    with peers.open_server() as server:
        port = server.getsockname()[1]
        sent = [introduce(host, port, rank) for rank, host in enumerate(hosts, 1)]
        accepted = dict(peers.accept(server, TOKEN))
    assert sorted(accepted.values()) == [1, 2]
    for peer in (*sent, *accepted):
        peer.close()


def test_a_server_without_ipv6(three_processes, monkeypatch):
    monkeypatch.setattr(socket, 'has_dualstack_ipv6', lambda: False)
    with peers.open_server() as server:
        assert server.family == socket.AF_INET
        peers.reach_first('127.0.0.1', server.getsockname()[1]).close()


def test_processes_that_do_not_connect_are_named(three_processes):
    """A stranger's connection counts for none of them."""
    with peers.open_server() as server:
        port = server.getsockname()[1]
        sent = [
            introduce('127.0.0.1', port, 1),
            introduce('127.0.0.1', port, 2, bytes(peers.TOKEN)),
        ]
        message = r'not heard within 0\.2 s from: rank 2\. .*MASTER_ADDR'
        with pytest.raises(UserError, match=message):
            list(peers.accept(server, TOKEN))
    for peer in sent:
        peer.close()


def test_a_first_process_that_is_not_reached(three_processes):
    with peers.open_server() as server:
        port = server.getsockname()[1]
    message = (
        rf'rank 2 does not reach rank 0 at 127\.0\.0\.1, port {port} .*MASTER_ADDR'
    )
    with pytest.raises(UserError, match=message):
        peers.reach_first('127.0.0.1', port)
