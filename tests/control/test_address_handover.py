"""The address handed over in good order: what the clients of the one who gives it up see of it. Real kernels."""

import multiprocessing
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from gateway.config.settings import Address
from gateway.control import address as address_module
from gateway.control.address import AddressService
from gateway.core.actions import Cause
from gateway.kernel.sock_destroy import Destroyed, destroy_connections
from gateway.kernel.templates import templates
from tests.control.address_harness import VIP, VIP6, Core, with_service
from tests.support import netns
from tests.support.netns import Segment

pytestmark = pytest.mark.kernel


@pytest.fixture
def segment() -> Iterator[Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    with Segment("cgh") as made:
        yield made


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_nobody_is_let_in_between_the_reset_of_the_others_and_the_loss_of_the_address(
    segment: Segment, address: Address
) -> None:
    """Who was let in had its question taken and nothing else sent: it hung for 20 s. Who isn't tries again."""
    host = segment.host("gw1", "10.77.0.91/24", "fd77::91/64")
    client = segment.host("client", "10.77.0.5/24", "fd77::5/64")
    listening, held, ended, tried = (multiprocessing.Event() for _ in range(4))

    def end_and_dawdle(ip: str, **bounds: Any) -> Destroyed:
        done = destroy_connections(ip, **bounds)
        ended.set()
        tried.wait(10)
        return done

    async def serve(service: AddressService, core: Core) -> None:
        address_module.destroy_connections = end_and_dawdle  # type: ignore[attr-defined]
        core.win()
        with socket.create_server((address.ip, 9618), family=_family(address)):
            listening.set()
            await trio.to_thread.run_sync(held.wait, 10)
            service.stop(core.term, Cause.REQUESTED, at_once=False)

    def connect() -> tuple[str, str]:
        listening.wait(10)
        with socket.create_connection((address.ip, 9618), 5) as before:
            held.set()
            ended.wait(10)
            try:
                socket.create_connection((address.ip, 9618), 0.5).close()
            except OSError as error:
                late = type(error).__name__
            else:
                late = "let in"
            tried.set()
            try:
                return repr(before.recv(1)), late
            except OSError as error:
                return type(error).__name__, late

    serving = host.start(with_service, serve, address)
    assert client.call(connect) == ("ConnectionResetError", "TimeoutError")
    serving.result(20)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.ip else socket.AF_INET
