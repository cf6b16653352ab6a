"""Connections that a switch has orphaned: destroyed, told to their peers, and no others. Real sockets."""

import errno
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.kernel import sock_destroy
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sock_destroy import Destroyed, destroy_connections
from tests.support.direct_pool import PORT, Pool, channel, say, stream_to
from tests.support.netns import Host, Segment

pytestmark = pytest.mark.kernel

IP, OTHER, IPV6 = "10.77.0.100", "10.77.0.11", "fd77::100"


@pytest.fixture
def manager(segment: Segment) -> Host:
    return segment.host("m1", f"{OTHER}/24", f"{IP}/32", "fd77::11/64", f"{IPV6}/128")


Pairs = list[tuple[socket.socket, socket.socket]]


def pairs(listener: str, ips: list[str], port: int = PORT) -> Pairs:
    """Return a connection to each of `ips`, from another address: the client's end and the server's, on this host."""
    family = socket.AF_INET6 if ":" in listener else socket.AF_INET
    listening = socket.create_server((listener, port), family=family, dualstack_ipv6=listener == "::")
    sources = ["fd77::11" if ":" in ip else OTHER for ip in ips]
    return [
        (socket.create_connection((ip, port), source_address=(source, 0)), listening.accept()[0])
        for ip, source in zip(ips, sources, strict=True)
    ]


def states(made: Pairs) -> list[str]:
    """Return how each client's end is: "open", "reset"."""
    found = []
    for client, _ in made:
        client.setblocking(False)
        try:
            client.recv(1)
            found.append("closed")
        except BlockingIOError:
            found.append("open")
        except ConnectionResetError:
            found.append("reset")
    return found


def test_only_connections_to_the_address_are_destroyed(manager: Host) -> None:
    def destroy() -> tuple[Destroyed, list[str], bool]:
        made = pairs("0.0.0.0", [IP, OTHER, IP])
        done = destroy_connections(IP)
        # What listens goes on.
        return done, states(made), bool(pairs("0.0.0.0", [IP], PORT + 1))

    assert manager.call(destroy) == (Destroyed(2, 0, 0), ["reset", "open", "reset"], True)


def test_a_port_can_be_asked_for(manager: Host) -> None:
    def destroy() -> tuple[Destroyed, list[str]]:
        made = pairs("0.0.0.0", [IP]) + pairs("0.0.0.0", [IP], PORT + 1)
        return destroy_connections(IP, PORT), states(made)

    assert manager.call(destroy) == (Destroyed(1, 0, 0), ["reset", "open"])


def test_ipv4_on_ipv6_sockets_is_found_too(manager: Host) -> None:
    def destroy(ip: str) -> tuple[Destroyed, list[str]]:
        made = pairs("::", [IP, OTHER, IPV6])
        return destroy_connections(ip), states(made)

    assert manager.call(destroy, IP) == (Destroyed(1, 0, 0), ["reset", "open", "open"])
    assert manager.call(destroy, IPV6) == (Destroyed(1, 0, 0), ["open", "open", "reset"])


def test_many_are_destroyed_in_one_call_and_the_limit_is_kept(manager: Host) -> None:
    def destroy() -> tuple[Destroyed, Destroyed, set[str]]:
        made = pairs("0.0.0.0", [IP] * 400)
        return destroy_connections(IP, sockets_max=150), destroy_connections(IP), set(states(made))

    first, rest, found = manager.call(destroy)
    assert (first.destroyed, rest.destroyed) == (150, 250)
    assert found == {"reset"}


def test_no_connections_are_no_error(manager: Host) -> None:
    assert manager.call(destroy_connections, IP) == Destroyed(0, 0, 0)


def test_a_kernel_that_cannot_is_named_and_counted(manager: Host) -> None:
    """As a kernel without CONFIG_INET_DIAG_DESTROY: it has the dump, and answers EOPNOTSUPP to the other."""
    refusal = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -errno.EOPNOTSUPP) + bytes(16)
    true_answers: Callable[[socket.socket], object] = sock_destroy._answers

    def destroy() -> tuple[Destroyed, list[str]]:
        from gateway.kernel import netlink

        made = pairs("0.0.0.0", [IP, IP])
        asked: list[int] = []

        def send(opened: socket.socket, data: bytes) -> None:
            asked.append(struct.unpack_from("=H", data, 4)[0])
            if asked[-1] == sock_destroy._SOCK_DIAG_BY_FAMILY:
                opened.send(data)

        def answers(opened: socket.socket) -> object:
            if asked[-1] == sock_destroy._SOCK_DIAG_BY_FAMILY:
                yield from true_answers(opened)
                return
            for number in (1, 2):
                yield next(netlink.split(refusal))._replace(sequence=number)

        sock_destroy._send, sock_destroy._answers = send, answers  # of this forked process alone
        return destroy_connections(IP), states(made)

    assert manager.call(destroy) == (Destroyed(0, 0, 2), ["open", "open"])


def test_without_the_right_it_is_refused(manager: Host) -> None:
    def destroy() -> str:
        import os

        made = pairs("0.0.0.0", [IP])
        os.setuid(65_534)
        try:
            destroy_connections(IP)
        except KernelRefused as refused:
            return str(refused) * bool(made)
        return ""

    assert "run as root or give the service CAP_NET_ADMIN" in manager.call(destroy)


def test_an_orphan_of_a_switch_is_reset_at_the_client_by_its_old_manager(segment: Segment, tmp_path: Path) -> None:
    """A client that only listens would never notice the switch by itself."""
    pool = Pool(segment, tmp_path)
    pool.hold(pool.gw1, pool.m1)

    def client(ready: socket.socket) -> str:
        with stream_to(pool.ip) as stream:
            say(stream)
            ready.send(b"!")
            select.select([stream], [], [], 10)
            try:
                return repr(stream.recv(1))
            except ConnectionResetError:
                return "reset"

    ours, theirs = channel()
    waiting = pool.client.start(client, theirs)
    ours.recv(1)
    pool.switch(pool.gw1, pool.m2)
    assert pool.m1.call(destroy_connections, pool.ip, PORT).destroyed == 1
    assert waiting.result() == "reset"
