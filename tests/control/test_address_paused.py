"""The address while the cluster is paused: a holder that is unfit goes on, since nobody could follow, and is mended."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from gateway.config.settings import Address
from gateway.control.address import RETRY_S, AddressService
from gateway.kernel import nftables
from gateway.kernel.address import local_addresses
from gateway.kernel.clock import boot_ms
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch
from gateway.kernel.templates import templates
from tests.control.address_harness import IP, Core, with_service
from tests.support import netns
from tests.support.netns import Segment

pytestmark = pytest.mark.kernel

ON_LAN1 = Address(name="vip", ip=IP, prefix_length=32, device="lan1", holders=("gw1", "gw2"))
MAKE = ("link", "add", "lan1", "type", "veth", "peer", "name", "lan2")


@pytest.fixture
def segment() -> Iterator[Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    with Segment("cgw") as made:
        yield made


def make_device() -> None:
    netns.ip(*MAKE)
    for device in ("lan2", "lan1"):
        netns.ip("link", "set", device, "up")


async def hold(service: AddressService, core: Core) -> None:
    while core.serving:  # ends with the hold, or by cancellation
        service.extend(boot_ms() + 2_000)
        await trio.sleep(0.05)


@pytest.mark.parametrize("lost", ["fence", "device"])
def test_what_a_paused_holder_has_lost_is_mended_where_it_is(segment: Segment, lost: str) -> None:
    async def lose(service: AddressService, core: Core) -> list[bool]:
        core.win()
        core.paused = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, service, core)
            await trio.sleep(0.1)
            if lost == "fence":
                assert service._fence is not None
                service._fence._nftables.transact(Batch([nftables.delete_table(service._fence.table)]))
            else:
                netns.ip("link", "delete", "lan1")
            right = [await core.wait(lambda: not core.fit), core.serving]
            if lost == "device":
                make_device()
            right.append(await core.wait(lambda: core.fit, within_s=RETRY_S + 5))
            await trio.sleep(0.2)
            assert service._fence is not None
            right += [core.serving, core.fit, IP in local_addresses(), service._fence.renew(1_000)]
            nursery.cancel_scope.cancel()
        return right

    def run() -> Any:
        make_device()
        return with_service(lose, ON_LAN1)

    assert segment.host("gw1").call(run) == [True] * 7


@pytest.mark.parametrize("trouble", ["little is left", "refused"])
def test_a_paused_holder_is_mended_when_its_new_fence_has_a_lease_and_no_sooner(segment: Segment, trouble: str) -> None:
    async def lose(service: AddressService, core: Core) -> list[bool]:
        core.win()
        core.paused = True
        fence = service._fence
        assert fence is not None
        grant, tries = fence.grant, 0

        def grant_at_last(lease_ms: int) -> bool:
            nonlocal tries
            tries += 1
            if tries > 2:
                return grant(lease_ms)
            if trouble == "refused":
                raise KernelRefused("grant the lease", errno.ENOMEM, "free some memory")
            return grant(min(lease_ms, 5))

        fence.grant = grant_at_last  # type: ignore[method-assign]
        fence._nftables.transact(Batch([nftables.delete_table(fence.table)]))
        service.extend(boot_ms() + 2_000)
        right = [await core.wait(lambda: tries == 1), core.fit]  # the first try is the task's, before it says so
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, service, core)
            right.append(await core.wait(lambda: core.fit, within_s=2 * RETRY_S + 5))
            await trio.sleep(0.2)
            right += [core.serving, core.fit, fence.renew(1_000)]
            nursery.cancel_scope.cancel()
        return right

    assert segment.host("gw1", "10.77.0.91/24").call(with_service, lose) == [True, False, True, True, True, True]
