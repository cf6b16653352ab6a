"""The MACs of servers: found, followed, lost, and refused by their reason. Real neighbour tables."""

import socket
import subprocess
import time
from collections.abc import Callable

import pytest
import trio

from gateway.kernel import resolver
from gateway.kernel.netlink import RouteSocket
from gateway.kernel.resolver import Event, OffSegment, Resolved, Resolver, Unresolved, off_segment
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

MAC = "02:00:00:00:00:11"
OTHER = "02:00:00:00:00:12"


def follow(servers: list[str], count: int, ready: socket.socket | None, within_s: float = 20) -> list[Event]:
    """Return the first `count` events; tells `ready` of each one."""
    heard: list[Event] = []

    async def main() -> None:
        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:

                def on_event(event: Event) -> None:
                    heard.append(event)
                    if ready is not None:
                        ready.send(b"!")
                    if len(heard) == count:
                        nursery.cancel_scope.cancel()

                await nursery.start(Resolver(servers, DEVICE, on_event).run)

    trio.run(main)
    return heard


def followed(gateway: Host, servers: list[str], changes: list[Callable[[], object]]) -> list[Event]:
    """Return the events of these changes, each made when the event before it was heard."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    running = gateway.start(follow, servers, 1 + len(changes), theirs)
    for change in changes:
        ours.recv(1)
        change()
    heard: list[Event] = running.result()
    return heard


@pytest.fixture(params=["10.77.0.", "fd77::"], ids=["ipv4", "ipv6"])
def network(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def hosts(segment: Segment, network: str) -> tuple[Host, Host, str]:
    length = "/64" if ":" in network else "/24"
    gateway = segment.host("gw1", f"{network}91{length}")
    table = f"net.{'ipv6' if ':' in network else 'ipv4'}.neigh.{DEVICE}"
    # A neighbour that may have gone is asked after 1 s instead of 5, and three times within 0.3 s.
    gateway.run("sysctl", "-qw", f"{table}.delay_first_probe_time=1", f"{table}.retrans_time_ms=100")
    return gateway, segment.host("m1", f"{network}11{length}", mac=MAC), f"{network}11"


def test_a_servers_mac_is_found_and_its_change_followed(segment: Segment, network: str) -> None:
    gateway, manager, ip = hosts(segment, network)

    def move() -> None:  # as a virtual machine that is restored elsewhere: it does not announce itself
        manager.ip("link", "set", DEVICE, "address", OTHER)
        gateway.ip("neigh", "change", ip, "lladdr", MAC, "dev", DEVICE, "nud", "stale")

    assert followed(gateway, [ip], [move]) in (
        [Resolved(ip, MAC), Resolved(ip, OTHER)],
        [Resolved(ip, MAC), Unresolved(ip)],  # where the kernel asks the old MAC first; the new one follows
    )


def test_a_server_that_falls_silent_is_unresolved_and_found_again(segment: Segment, network: str) -> None:
    gateway, manager, ip = hosts(segment, network)

    def fall_silent() -> None:
        manager.cut()
        gateway.ip("neigh", "change", ip, "lladdr", MAC, "dev", DEVICE, "nud", "stale")

    assert followed(gateway, [ip], [fall_silent, manager.heal]) == [
        Resolved(ip, MAC),
        Unresolved(ip),
        Resolved(ip, MAC),
    ]


def test_an_announced_mac_is_heard_at_once(segment: Segment) -> None:
    gateway, manager, ip = hosts(segment, "10.77.0.")

    def announce() -> None:
        from gateway.kernel.announce import Announcer

        time.sleep(1.1)  # Linux ignores a second change within its ARP locktime
        manager.ip("link", "set", DEVICE, "address", OTHER)
        manager.call(lambda: Announcer(ip, DEVICE).burst(1))

    assert followed(gateway, [ip], [announce]) == [Resolved(ip, MAC), Resolved(ip, OTHER)]


def test_servers_off_the_segment_are_refused_by_their_reason(segment: Segment, network: str) -> None:
    gateway, _, ip = hosts(segment, network)
    six = ":" in network
    segment.plug(gateway, "lan1")
    other, far, beside = ("fd78::1", "fd79::1", "fd78::2") if six else ("10.78.0.1", "10.79.0.1", "10.78.0.2")
    gateway.ip("address", "add", f"{other}/{64 if six else 24}", "dev", "lan1")
    gateway.ip("route", "add", f"{far}/{128 if six else 32}", "via", ip)

    def reasons() -> list[str | None]:
        requests = RouteSocket()
        nowhere = "fd80::1" if six else "10.80.0.1"
        return [off_segment(requests, one, DEVICE) for one in (ip, far, f"{network}91", beside, nowhere)]

    assert gateway.call(reasons) == [
        None,
        f"behind the router {ip}, not on the segment of 'lan0'",
        "this gateway itself",
        "reached by 'lan1', not by 'lan0'",
        "not reached by any route of this gateway",
    ]
    assert followed(gateway, [far], []) == [OffSegment(far, f"behind the router {ip}, not on the segment of 'lan0'")]


def test_a_server_comes_onto_the_segment(segment: Segment) -> None:
    gateway, _, ip = hosts(segment, "10.77.0.")
    gateway.ip("route", "add", f"{ip}/32", "via", "10.77.0.12")
    heard = followed(gateway, [ip], [lambda: gateway.ip("route", "del", f"{ip}/32")])
    assert isinstance(heard[0], OffSegment)
    assert heard[1] in (Resolved(ip, MAC), Unresolved(ip))  # the latter until the server has answered


def test_lost_notifications_are_made_up_for(segment: Segment) -> None:
    gateway, _, ip = hosts(segment, "10.77.0.")

    def flooded() -> tuple[str | None, int]:
        made = Resolver([ip], DEVICE, lambda event: heard.set())
        made._notifications.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        flood = "\n".join(f"neigh replace 10.77.0.{n} lladdr {OTHER} dev {DEVICE}" for n in range(100, 200))
        subprocess.run(["ip", "-batch", "-"], input=flood, text=True, check=True)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(made.run)
                with trio.move_on_after(10):
                    await heard.wait()
                nursery.cancel_scope.cancel()

        heard = trio.Event()
        trio.run(main)
        return made.mac(ip), made.resyncs_total

    mac, resyncs = gateway.call(flooded)
    assert mac == MAC
    assert resyncs >= 1


def test_a_device_that_is_made_anew_is_followed(segment: Segment) -> None:
    gateway, _, ip = hosts(segment, "10.77.0.")

    def make_anew() -> None:
        gateway.ip("link", "delete", DEVICE)
        time.sleep(resolver.REMIND_S * 1.5)
        segment._plug(gateway, DEVICE, gateway.port, None)
        gateway.ip("address", "add", "10.77.0.91/24", "dev", DEVICE)

    heard = followed(gateway, [ip], [make_anew, lambda: None])
    assert heard[0] == heard[-1] == Resolved(ip, MAC)
