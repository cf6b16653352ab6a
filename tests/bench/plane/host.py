"""`python -m tests.bench.plane.host proxy|nat|direct ARGUMENTS`: ours, in the namespace of a gateway.

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
from gateway.relay.client import open_relay
from gateway.relay.messages import Listener, ListenFailed, Ready, Switched

ROUTE = "pool"
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

DIRECT_RULES = """\
table netdev cgbench {{
    map servers {{ type ipv4_addr : ether_addr; elements = {{ {address} : {mac} }} }}
    chain ingress {{
        type filter hook ingress device lan0 priority 0;
        ether daddr != {own_mac} accept
        ip daddr {address} ether saddr set {own_mac} ether daddr set ip daddr map @servers fwd to lan0
    }}
}}
"""


async def run_rules(kind: str, arguments: Arguments) -> None:
    """Have the kernel do it, by rules like ours that the nft command makes."""
    address, port = arguments["address"], arguments["port"]
    if kind == "nat":
        _run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    own_mac = json.loads(_run("ip", "-j", "link", "show", "lan0"))[0]["address"]

    def rules(number: int) -> str:
        server, mac = arguments["servers"][str(number)], arguments["macs"][str(number)]
        text = NAT_RULES if kind == "nat" else DIRECT_RULES
        family = "ip" if kind == "nat" else "netdev"
        filled = text.format(address=address, port=port, server=server, mac=mac, number=number, own_mac=own_mac)
        return f"table {family} cgbench\ndelete table {family} cgbench\n{filled}"

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
    kind, arguments = sys.argv[1], json.loads(sys.argv[2])
    if kind == "proxy":
        trio.run(run_proxy, arguments)
    else:
        trio.run(run_rules, kind, arguments)


if __name__ == "__main__":
    main()
