"""The address when a reload brings another version, whose fence has other rules: the lease is that of the votes."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from gateway.control.address import AddressService
from gateway.kernel import fence_rules
from gateway.kernel.address import local_addresses
from gateway.kernel.clock import boot_ms
from gateway.kernel.tables import Layout
from gateway.kernel.templates import templates
from tests.control.address_harness import IP, Core, with_service
from tests.support import netns
from tests.support.netns import Host, Segment

pytestmark = pytest.mark.kernel


@pytest.fixture
def segment() -> Iterator[Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    with Segment("cgu") as made:
        yield made


@pytest.fixture
def host(segment: Segment) -> Host:
    """Hold the address by a process of another version, which leaves it to the next."""
    made = segment.host("gw1", "10.77.0.91/24")
    made.call(leave_by_another_version)
    return made


def leave_by_another_version() -> None:
    ours = fence_rules.strong

    def other(table: str, device: str, ip: str) -> Layout:
        return ours(table, device, ip)._replace(purpose=b"of another version")

    async def leave(service: AddressService, core: Core) -> None:
        core.win()
        service.keep()

    fence_rules.strong = other
    with_service(leave)


@pytest.mark.parametrize("paused", [False, True], ids=["", "paused"])
def test_the_next_version_goes_on_with_the_lease_in_a_fence_of_its_own(
    segment: Segment, host: Host, paused: bool
) -> None:
    client = segment.host("client", "10.77.0.5/24")

    async def resume(service: AddressService, core: Core) -> list[bool]:
        assert service._fence is not None
        right = [not service._fence.renew(1_000)]  # it is ours, and shut
        core.paused, core.term, core.serving = paused, 1, True
        service.resume(1, boot_ms() + 30_000)
        service.extend(boot_ms() + 30_000)
        reached = await trio.to_thread.run_sync(asked.wait, 10)
        return [*right, reached, core.serving, service.holds(), service._fence.renew(1_000)]

    asked = multiprocessing.Event()
    assert client.ping(IP), "the version before has left it in order"
    resuming = host.start(with_service, resume, adopt=True)
    reached = any(client.ping(IP, 0.5) for _ in range(10))
    asked.set()
    assert reached
    assert resuming.result(20) == [True] * 5


Ending = Callable[[AddressService], Any]


async def resumed_too_late(service: AddressService) -> None:
    service.resume(1, boot_ms())


async def extended_too_late(service: AddressService) -> None:
    service.resume(1, boot_ms() + 5)  # less than the kernel takes
    await trio.sleep(0.02)
    service.extend(boot_ms() + 30_000)


async def extended_too_late_while_a_thread_builds(service: AddressService) -> None:
    service._mending = True
    await extended_too_late(service)


@pytest.mark.parametrize("ending", [resumed_too_late, extended_too_late, extended_too_late_while_a_thread_builds])
def test_a_lease_that_ended_while_the_fence_was_rebuilt_is_not_gone_on_with(host: Host, ending: Ending) -> None:
    async def resume(service: AddressService, core: Core) -> list[bool]:
        core.paused, core.term, core.serving = True, 1, True
        await ending(service)
        core.step()
        assert service._fence is not None
        return [core.serving, service.holds(), IP in local_addresses(), service._fence.renew(1_000)]

    assert host.call(with_service, resume, adopt=True) == [False] * 4
