"""The lease in the kernel, further: IPv6 by every protocol, several addresses, answers kept in queues, a handover."""

import contextlib
import multiprocessing
import select
import signal
import socket
import time

import pytest

from gateway.kernel import nftables
from gateway.kernel.fence import Fence
from gateway.kernel.nftables import Batch, Nftables, Refusal
from gateway.kernel.sock_destroy import destroy_connections
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IPV4, IPV6 = "10.77.0.100", "fd77::100"
MAC = "02:00:00:00:00:91"
PORT = 9618


def echo(ip: str, slow_s: float = 0.0) -> None:
    """Answer datagrams, accept connections and answer what they say, each after `slow_s`."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((ip, PORT))
    listening = socket.create_server((ip, PORT), family=family)
    streams: list[socket.socket] = []
    while True:  # until killed
        for ready in select.select([datagrams, listening, *streams], [], [])[0]:
            time.sleep(slow_s)
            with contextlib.suppress(OSError):  # the fence dropped the answer
                if ready is datagrams:
                    data, source = datagrams.recvfrom(2_048)
                    datagrams.sendto(data, source)
                elif ready is listening:
                    streams.append(listening.accept()[0])
                else:
                    ready.sendall(ready.recv(2_048))


def answers(ip: str, within_s: float = 0.3) -> dict[str, bool]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    found = {"udp": False, "tcp": False}
    with socket.socket(family, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
        asking.settimeout(within_s)
        asking.sendto(b"?", (ip, PORT))
        found["udp"] = asking.recv(10) == b"?"
    with contextlib.suppress(OSError), socket.create_connection((ip, PORT), within_s) as stream:
        stream.sendall(b"?")
        found["tcp"] = stream.recv(10) == b"?"
    return found


def all_answers(client: Host, ip: str) -> dict[str, bool]:
    """Ask with the MAC known, so that each protocol answers for itself, then for the MAC."""
    client.ip("neigh", "replace", ip, "lladdr", MAC, "dev", DEVICE, "nud", "permanent")
    found = {**client.call(answers, ip), "ping": client.ping(ip, 0.3)}
    client.ip("neigh", "del", ip, "dev", DEVICE)
    client.ping(ip, 0.2)
    return found | {"neighbour": client.neighbour(ip) == MAC}


def fence(ip: str, name: str, lease_ms: int) -> None:
    made = Fence(ip, DEVICE, name)
    made.install()
    if lease_ms:
        made.grant(lease_ms)
    made.close()


def nothing(found: dict[str, bool]) -> bool:
    return not any(found.values())


def test_ipv6_passes_by_no_protocol_without_a_living_lease(segment: Segment) -> None:
    holder = segment.host("gw1", "fd77::91/64", f"{IPV6}/128", mac=MAC)
    client = segment.host("client", "fd77::5/64")
    holder.start(echo, IPV6)
    time.sleep(0.2)
    assert all(all_answers(client, IPV6).values())
    holder.call(fence, IPV6, "vip", 0)
    assert nothing(all_answers(client, IPV6))
    assert client.ping("fd77::91"), "the host's own addresses are no concern of it"
    holder.call(fence, IPV6, "vip", 30_000)
    assert all(all_answers(client, IPV6).values())
    holder.call(fence, IPV6, "vip", 100)
    time.sleep(0.15)
    assert nothing(all_answers(client, IPV6))


def test_an_older_kernel_fences_ipv6_too(segment: Segment) -> None:
    holder = segment.host("gw1", "fd77::91/64", f"{IPV6}/128", mac=MAC)
    client = segment.host("client", "fd77::5/64")

    def weakly(lease_ms: int) -> None:
        from gateway.kernel import nftables

        nftables.HOOK_EGRESS = 7  # as before Linux 5.16
        fence(IPV6, "vip", lease_ms)

    holder.start(echo, IPV6)
    time.sleep(0.2)
    holder.call(weakly, 0)
    assert nothing(all_answers(client, IPV6))
    holder.call(weakly, 30_000)
    assert all(all_answers(client, IPV6).values())


def test_several_addresses_on_one_device_have_leases_of_their_own(segment: Segment) -> None:
    others = ["10.77.0.101", IPV6]
    holder = segment.host(
        "gw1", "10.77.0.91/24", "fd77::91/64", f"{IPV4}/32", f"{others[0]}/32", f"{IPV6}/128", mac=MAC
    )
    client = segment.host("client", "10.77.0.5/24", "fd77::5/64")
    everything = [IPV4, *others]
    for ip in everything:
        holder.start(echo, ip)
        holder.call(fence, ip, f"of-{everything.index(ip)}", 0)
    assert all(nothing(all_answers(client, ip)) for ip in everything)
    for held in everything:
        name = f"of-{everything.index(held)}"
        holder.call(fence, held, name, 30_000)
        assert [all(all_answers(client, ip).values()) for ip in everything] == [ip == held for ip in everything]
        holder.call(fence, held, name, 0)


def test_the_renewals_of_three_addresses_cost_no_more_than_three_of_one(segment: Segment) -> None:
    holder = segment.host("gw1", "10.77.0.91/24")

    def median_us(addresses: list[str]) -> float:
        fences = [Fence(ip, DEVICE, f"of-{number}") for number, ip in enumerate(addresses)]
        for one in fences:
            one.install()
            one.grant(10_000)
        taken = []
        for _ in range(300):
            before = time.perf_counter()
            assert all(one.renew(10_000) for one in fences)
            taken.append(time.perf_counter() - before)
        return sorted(taken)[150] * 1e6

    measured = holder.call(median_us, [IPV4, "10.77.0.101", IPV6])
    print(f"renew three leases: {measured:.0f} us")
    assert measured < 3_000


@pytest.mark.parametrize("ip", [IPV4, IPV6])
def test_a_frozen_holder_answers_nothing_that_was_queued_when_it_wakes(segment: Segment, ip: str) -> None:
    """A frozen machine's old questions wait in its sockets, and are answered seconds later, with nobody looking."""
    holder = segment.host("gw1", "10.77.0.91/24", "fd77::91/64", f"{ip}/{128 if ':' in ip else 32}", mac=MAC)
    client = segment.host("client", "10.77.0.5/24", "fd77::5/64")
    serving = holder.start(echo, ip)
    time.sleep(0.2)
    lease_ms = 700
    holder.call(fence, ip, "vip", lease_ms)
    granted = time.monotonic()
    assert client.call(answers, ip) == {"udp": True, "tcp": True}
    serving.signal(signal.SIGSTOP)

    def ask_into_the_queue() -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            for _ in range(20):
                asking.sendto(b"?", (ip, PORT))
        stream = socket.create_connection((ip, PORT), 1)  # the kernel shakes hands for the frozen process
        stream.sendall(b"?")
        time.sleep(0.05)

    client.call(ask_into_the_queue)
    queued = time.monotonic()
    assert (queued - granted) * 1000 < lease_ms, "asked while the lease lived, or this says nothing"
    time.sleep(lease_ms / 1000)
    capture = client.capture()
    serving.signal(signal.SIGCONT)
    time.sleep(0.5)
    packed = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    source = slice(22, 38) if ":" in ip else slice(26, 30)
    assert [frame for frame in capture.frames(outgoing=False) if frame.data[source] == packed] == []
    holder.call(fence, ip, "vip", 30_000)
    assert client.call(answers, ip)["udp"], "it had woken, and would have answered"


@pytest.mark.parametrize("ip", [IPV4, IPV6])
@pytest.mark.parametrize("egress", [True, False], ids=["strong", "weak"])
def test_a_deaf_fence_lets_no_tcp_in_and_resets_out(segment: Segment, ip: str, egress: bool) -> None:
    holder = segment.host("gw1", "10.77.0.91/24", "fd77::91/64", f"{ip}/{128 if ':' in ip else 32}", mac=MAC)
    client = segment.host("client", "10.77.0.5/24", "fd77::5/64")
    connected, deaf, tried = (multiprocessing.Event() for _ in range(3))

    def hand_over() -> None:
        if not egress:
            nftables.HOOK_EGRESS = 7  # as before Linux 5.16
        made = Fence(ip, DEVICE, "vip")
        made.install()
        made.grant(30_000)
        connected.wait(10)
        made.deafen()
        deaf.set()
        tried.wait(10)
        destroy_connections(ip)
        time.sleep(0.1)

    def ask() -> tuple[dict[str, bool], str]:
        until = time.monotonic() + 10
        while True:  # until the address answers
            try:
                stream = socket.create_connection((ip, PORT), 0.3)
                break
            except OSError:
                assert time.monotonic() < until, "the address never answered"
                time.sleep(0.02)
        connected.set()
        deaf.wait(10)
        found = answers(ip)
        tried.set()
        try:
            stream.settimeout(5)
            return found, repr(stream.recv(10))
        except OSError as error:
            return found, type(error).__name__

    serving, handing = holder.start(echo, ip), holder.start(hand_over)
    assert client.call(ask) == ({"udp": True, "tcp": False}, "ConnectionResetError")
    handing.result(20)
    serving.kill()


def test_a_deaf_fence_is_not_renewed_ends_with_its_lease_and_may_be_opened_again(segment: Segment) -> None:
    holder = segment.host("gw1", "10.77.0.91/24", f"{IPV4}/32", mac=MAC)
    client = segment.host("client", "10.77.0.5/24")

    def die_deaf(lease_ms: int) -> bool:
        made = Fence(IPV4, DEVICE, "vip")
        made.install()
        made.grant(lease_ms)
        made.deafen()
        renewed = made.renew(30_000)
        made.close()
        return renewed

    def hold_again() -> list[Refusal | None]:
        done: list[Refusal | None] = []
        transact = Nftables.transact

        def noting(self: Nftables, batch: Batch) -> Refusal | None:
            done.append(transact(self, batch))
            return done[-1]

        made = Fence(IPV4, DEVICE, "vip")
        made.install()
        Nftables.transact = noting  # type: ignore[method-assign]
        made.grant(30_000)
        made.deafen()
        made.revoke()
        made.grant(30_000)
        made.revoke()
        made.grant(30_000)
        made.close()
        return done

    serving = holder.start(echo, IPV4)
    time.sleep(0.2)
    assert holder.call(die_deaf, 400) is False
    assert client.ping(IPV4, 0.3)
    time.sleep(0.4)
    assert not client.ping(IPV4, 0.3)
    # Nothing is asked for that the kernel must refuse: it takes 15 ms to abort a transaction, in control's own loop.
    assert holder.call(hold_again) == [None] * 6
    assert client.call(answers, IPV4) == {"udp": True, "tcp": True}
    serving.kill()
