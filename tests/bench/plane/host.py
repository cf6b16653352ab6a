"""`python -m tests.bench.plane.host proxy|nat|direct|destroy ARGUMENTS`: ours, in the namespace of a gateway.

Reads the number of a server a line and goes there; answers each with when that was decided. Ends with its input.
"""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import trio

from gateway.config.settings import Endpoint
from gateway.kernel.realtime import CONTROL_PRIORITY, prefer_realtime
from gateway.kernel.sock_destroy import destroy_connections
from gateway.relay.client import open_relay
from gateway.relay.messages import Listener, ListenFailed, Ready, Switched

DEVICE = "lan0"
ROUTE = "pool"
LEASE_MS, RENEWAL_MS = 1_000, 50
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
        "source_max": 0,
        "silent_max": arguments["connections_max"],
    }
    limits |= {"client_ms": 3_600_000}
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


NAT_RULES = """\
table ip cgbench {{
    map servers {{ type ipv4_addr : ipv4_addr; elements = {{ {address} : {server} }} }}
    chain before {{
        type nat hook prerouting priority dstnat;
        ip daddr {address} tcp dport {port} ct mark set {number} dnat to ip daddr map @servers
        ip daddr {address} udp dport {port} ct mark set {number} dnat to ip daddr map @servers
    }}
    chain after {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
}}
"""


async def run_direct(arguments: Arguments) -> None:
    """Have the kernel send the frames on, under a lease as the control process renews it."""
    from gateway.kernel.direct import Direct

    direct = Direct(arguments["address"], DEVICE, "bench")
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
    """Have the kernel translate, by rules like ours that the nft command makes."""
    _run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def rules(number: int) -> str:
        server = arguments["servers"][str(number)]
        filled = NAT_RULES.format(address=arguments["address"], port=arguments["port"], server=server, number=number)
        return f"table ip cgbench\ndelete table ip cgbench\n{filled}"

    _run("nft", "-f", "-", input_text=rules(1))
    say(ready=True)
    async for number in orders():
        text = rules(number)
        decided_ns = time.monotonic_ns()
        _run("nft", "-f", "-", input_text=text)
        say(decided_ns=decided_ns, closed=0, took_us=(time.monotonic_ns() - decided_ns) / 1000)


def _run(*argv: str, input_text: str = "") -> str:
    return subprocess.run(argv, input=input_text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    kinds = {"proxy": run_proxy, "nat": run_nat, "direct": run_direct, "destroy": run_destroy}
    trio.run(kinds[sys.argv[1]], json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
