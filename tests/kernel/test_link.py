"""Links and addresses as they change, from the real kernel."""

import errno
import subprocess
from collections.abc import Callable

import pytest
import trio

from gateway.kernel.link import AddressAdded, AddressRemoved, Event, LinkChanged, LinkWatch, MacChanged, link_up
from gateway.kernel.netlink import KernelRefused, Message, RouteSocket
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP = "10.77.0.100"


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def events_of(act: Callable[[], None], *, watch: LinkWatch | None = None, within_s: float = 1.0) -> list[Event]:
    """Return the IPv4 and link events that `act` causes."""

    async def main() -> list[Event]:
        seen: list[Event] = []
        watching = watch if watch is not None else LinkWatch()
        async with trio.open_nursery() as nursery:
            await nursery.start(watching.run, seen.append)
            act()
            await trio.sleep(within_s)
            nursery.cancel_scope.cancel()
        return [event for event in seen if ":" not in getattr(event, "ip", "")]

    return trio.run(main)


def test_a_pulled_cable_is_seen_and_the_cable_put_back(host: Host) -> None:
    assert host.call(link_up, DEVICE) is True
    watching = host.start(events_of, lambda: None, within_s=3.0)
    try:
        import time

        time.sleep(0.5)
        host.cut()
        time.sleep(0.5)
        assert host.call(link_up, DEVICE) is False
        host.heal()
        assert watching.result() == [LinkChanged(DEVICE, up=False), LinkChanged(DEVICE, up=True)]
    finally:
        watching.kill()


def test_a_device_switched_off_is_down(host: Host) -> None:
    seen = host.call(events_of, lambda: ip("link", "set", DEVICE, "down"))
    assert LinkChanged(DEVICE, up=False) in seen
    assert host.call(link_up, DEVICE) is False


def test_a_missing_device_is_not_up(host: Host) -> None:
    assert host.call(link_up, "eth9") is False


def test_an_address_that_somebody_removes_is_named(host: Host) -> None:
    host.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    seen = host.call(events_of, lambda: ip("address", "del", f"{IP}/32", "dev", DEVICE))
    assert seen == [AddressRemoved(IP, 32, DEVICE)]


def test_an_address_that_appears_is_named(host: Host) -> None:
    seen = host.call(events_of, lambda: ip("address", "add", f"{IP}/32", "dev", DEVICE))
    assert seen == [AddressAdded(IP, 32, DEVICE)]


def test_another_mac_is_named_and_is_no_change_of_the_link(host: Host) -> None:
    seen = host.call(events_of, lambda: ip("link", "set", DEVICE, "address", "02:00:00:00:00:77"))
    assert seen == [MacChanged(DEVICE, "02:00:00:00:00:77")]


def test_a_device_that_vanishes_takes_its_addresses_with_it(host: Host) -> None:
    host.ip("link", "add", "lan1", "type", "veth", "peer", "name", "lan2")
    host.ip("link", "set", "lan2", "up")
    host.ip("link", "set", "lan1", "up")
    host.ip("address", "add", f"{IP}/32", "dev", "lan1")
    seen = host.call(events_of, lambda: ip("link", "delete", "lan1"))
    assert {AddressRemoved(IP, 32, "lan1"), LinkChanged("lan1", up=False)} <= set(seen)


def change(*orders: str) -> None:
    """Carry out each order for so many addresses that a small queue is full."""
    lines = [f"address {order} 10.78.0.{number}/32 dev {DEVICE}" for order in orders for number in range(1, 200)]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=20)


def small_watch() -> LinkWatch:
    return LinkWatch(receive_bytes=2_304)


ALL_ADDED = sorted((AddressAdded(f"10.78.0.{number}", 32, DEVICE) for number in range(1, 200)), key=str)


def test_changes_lost_in_a_full_queue_are_found_by_reading_everything(host: Host) -> None:
    def flood() -> tuple[int, list[Event]]:
        watch = small_watch()
        seen = events_of(lambda: change("add"), watch=watch)
        return watch.resyncs_total, seen

    resyncs, seen = host.call(flood)
    assert resyncs >= 1
    assert sorted(seen, key=str) == ALL_ADDED


def test_what_a_full_queue_still_holds_is_not_taken_for_newer_than_the_tables(host: Host) -> None:
    def flood() -> list[Event]:
        return events_of(lambda: change("add", "del"), watch=small_watch())

    seen = host.call(flood)
    added = {event.ip for event in seen if isinstance(event, AddressAdded)}
    removed = {event.ip for event in seen if isinstance(event, AddressRemoved)}
    assert added == removed


def refuse_dumps(number: int, times: int) -> None:
    """Let the kernel's tables be refused so many times, in this process."""
    dump = RouteSocket.dump
    left = iter(range(times))

    def refusing(self: RouteSocket, message: bytearray) -> list[Message]:
        if next(left, None) is not None:
            raise KernelRefused("read the kernel's tables", number, "they change without pause; try again")
        return dump(self, message)

    RouteSocket.dump = refusing  # type: ignore[method-assign]


def test_tables_that_change_while_they_are_read_are_read_again_until_they_stand_still(host: Host) -> None:
    def flood() -> tuple[int, list[Event]]:
        watch = small_watch()

        def act() -> None:
            refuse_dumps(errno.EINTR, 5)
            change("add")

        seen = events_of(act, watch=watch)
        return watch.interrupted_total, seen

    interrupted, seen = host.call(flood)
    assert interrupted == 5
    assert sorted(seen, key=str) == ALL_ADDED


def test_a_watch_that_begins_while_the_tables_change_reports_what_it_finds(host: Host) -> None:
    def begin() -> list[Event]:
        refuse_dumps(errno.EINTR, 2)
        return events_of(lambda: None)

    assert {LinkChanged(DEVICE, up=True), AddressAdded("10.77.0.91", 24, DEVICE)} <= set(host.call(begin))


def test_tables_that_are_refused_for_another_reason_end_the_watch(host: Host) -> None:
    def flood() -> str:
        def act() -> None:
            refuse_dumps(errno.EPERM, 1)
            change("add")

        with pytest.raises(ExceptionGroup) as raised:
            events_of(act, watch=small_watch())
        return str(raised.value.exceptions[0])

    assert "operation not permitted" in host.call(flood)
