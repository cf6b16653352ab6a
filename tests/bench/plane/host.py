"""`python -m tests.bench.plane.host proxy|nat|direct|destroy ARGUMENTS`: ours, in the namespace of a gateway.

Reads the number of a server a line and goes there; answers each with when that was decided. Ends with its input.
"""

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from gateway.config.settings import Endpoint
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.realtime import CONTROL_PRIORITY, prefer_realtime
from gateway.kernel.sock_destroy import destroy_connections
from gateway.relay.client import open_relay
from gateway.relay.messages import Listener, ListenFailed, Ready, Switched

DEVICE = "lan0"
ROUTE = "pool"
LEASE_MS, RENEWAL_MS = 1_000, 50
FAR_ABOVE = 1_000_000  # limits for one client address: asked about as on a real gateway, and never reached
Arguments = dict[str, Any]


async def orders() -> AsyncIterator[int]:
    """Give the numbers of the servers to go to."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield int(line)


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def run_proxy(arguments: Arguments) -> None:
    """Run a relay process."""
    known = {field: field for field in Listener.__struct_fields__}
    # Limits are not what is measured; what this relay does not know yet, it is not told.
    limits = {
        "connections_max": arguments["connections_max"],
        "source_max": FAR_ABOVE,
        "source_rate": FAR_ABOVE,
        "silent_max": arguments["connections_max"],
    }
    limits |= {"held_max": arguments["connections_max"], "client_ms": 3_600_000}
    limits = {name: value for name, value in limits.items() if name in known}
    listeners = [
        Listener(
            name=f"matchmaker-{protocol}",
            route=ROUTE,
            protocol=protocol,
            host=arguments["address"],
            port=arguments["port"],
            **limits,
        )
        for protocol in ("tcp", "udp")
    ]
    async with open_relay() as relay:

        async def heard(*kinds: type) -> Any:
            while True:
                event = await relay.events.receive()
                if isinstance(event, kinds):
                    return event

        def go(number: int, epoch: int) -> None:
            relay.route(ROUTE, Endpoint(arguments["servers"][str(number)], arguments["port"]), epoch)

        go(1, 1)
        relay.configure(listeners)
        ready = await heard(Ready, ListenFailed)
        assert isinstance(ready, Ready), ready
        say(ready=True)
        epoch = 1
        async for number in orders():
            epoch += 1
            decided_ns = time.monotonic_ns()
            go(number, epoch)
            switched = await heard(Switched)
            say(decided_ns=decided_ns, closed=switched.connections_closed, took_us=switched.took_us)


async def run_direct(arguments: Arguments) -> None:
    """Have the kernel send the frames on, under a lease as the control process renews it."""
    from gateway.kernel.direct import Direct

    direct = Direct(arguments["address"], DEVICE, "bench", rate=Rate(FAR_ABOVE, FAR_ABOVE))
    direct.install()
    direct.switch(arguments["macs"]["1"])
    direct.grant(LEASE_MS)
    prefer_realtime(CONTROL_PRIORITY)  # as the control process
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_renew, direct)
        say(ready=True)
        async for number in orders():
            decided_ns = time.monotonic_ns()
            direct.switch(arguments["macs"][str(number)])
            say(decided_ns=decided_ns, closed=0, took_us=(time.monotonic_ns() - decided_ns) / 1000)
        nursery.cancel_scope.cancel()
    direct.remove()


async def _renew(direct: Any) -> None:
    while True:
        await trio.sleep(RENEWAL_MS / 1000)
        if not direct.extend(LEASE_MS):
            direct.grant(LEASE_MS)
            print("the lease has run out", file=sys.stderr)


async def run_destroy(arguments: Arguments) -> None:
    """Be the node of a manager: destroy the connections that it has lost, as often as it is told to."""
    say(ready=True)
    async for _ in orders():
        begun_ns = time.monotonic_ns()
        done = destroy_connections(arguments["address"], arguments["port"])
        say(decided_ns=begun_ns, closed=done.destroyed, took_us=(time.monotonic_ns() - begun_ns) / 1000)


async def run_nat(arguments: Arguments) -> None:
    """Have the kernel translate."""
    from gateway.kernel.nat import Nat
    from gateway.kernel.nat_rules import Listener as Translated
    from gateway.kernel.nat_rules import Service

    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # noqa: ASYNC240 (no file: the kernel's memory)
    listeners = tuple(Translated(arguments["address"], each, arguments["port"]) for each in ("tcp", "udp"))
    nat = Nat("bench", [Service(ROUTE, listeners, rate=Rate(FAR_ABOVE, FAR_ABOVE))])

    def server(number: int) -> Endpoint:
        return Endpoint(arguments["servers"][str(number)], arguments["port"])

    nat.install()
    nat.switch(server(1))
    prefer_realtime(CONTROL_PRIORITY)  # as the control process
    say(ready=True)
    async for number in orders():
        decided_ns = time.monotonic_ns()
        nat.switch(server(number))
        await trio.to_thread.run_sync(nat.follow, ROUTE)
        expelled = await trio.to_thread.run_sync(nat.expel)
        say(decided_ns=decided_ns, closed=expelled.connections, took_us=(time.monotonic_ns() - decided_ns) / 1000)
    nat.remove()


def main() -> None:
    kinds = {"proxy": run_proxy, "nat": run_nat, "direct": run_direct, "destroy": run_destroy}
    trio.run(kinds[sys.argv[1]], json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
