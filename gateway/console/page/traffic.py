"""The traffic of the page: what each gateway carries for each frontend, and what is wrong on the way. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.console.page import words

Document = Mapping[str, Any]


class FlowView(NamedTuple):
    """One frontend on one gateway, and the backend behind it."""

    gateway: str
    holds: bool  # any of its addresses: the others carry nothing now
    frontend: str
    backend: str
    way: str
    server: str
    connections: str
    connection_rate: str
    flows: str
    datagram_rate: str
    to_server: str
    to_client: str
    total: str


class TrafficView(NamedTuple):
    """All of it, and what needs attention: state and sentence."""

    flows: tuple[FlowView, ...]
    attention: tuple[tuple[str, str], ...]


def traffic_view(said: Document, known: Mapping[str, Document]) -> TrafficView:
    """Return what this node's gateway and, where they are known, the others carry; holders first.

    Args:
        said: the status of this node.
        known: node -> its own status, where it is known.
    """
    flows = [_flow(name, document, frontend) for name, document in known.items()
             for frontend in document.get("frontends") or {}]  # fmt: skip
    attention = []
    for name, document in known.items():
        for backend, figures in (document.get("backends") or {}).items():
            if figures.get("fault"):
                attention.append(("warn", f"{name} cannot use 'forward {figures['way']}' for {backend}: "
                                          f"{figures['fault']}."))  # fmt: skip
        relay = document.get("relay")
        if relay is not None and relay.get("degraded"):
            attention.append(("warn", f"Only {relay['listening']} of {len(relay['workers'])} relay processes of "
                                      f"{name} listen."))  # fmt: skip
        for device, back in (document.get("returns") or {}).items():
            if back.get("fault"):
                attention.append(("warn", f"Answers do not find back through {device} of {name}: {back['fault']}."))
    return TrafficView(tuple(sorted(flows, key=lambda flow: (not flow.holds, flow.gateway))), tuple(attention))


def _flow(gateway: str, document: Document, frontend: str) -> FlowView:
    figures = document["frontends"][frontend]
    backend = document["backends"].get(figures["backend"]) or {}
    addresses = document.get("addresses") or {}
    holds = any((addresses.get(name) or {}).get("held") for name in backend.get("addresses") or ())
    connections, flows, rates = figures["connections"], figures["flows"], figures["rates"]
    return FlowView(
        gateway=gateway,
        holds=holds,
        frontend=frontend,
        backend=figures["backend"],
        way=figures["way"],
        server=backend.get("server") or "nobody",
        connections=words.number(connections["now"]),
        connection_rate=words.rate(rates["connections"]),
        flows=words.number(flows["now"]),
        datagram_rate=words.rate(rates["datagrams_to_server"]),
        to_server=_size_rate(rates["bytes_to_server"]),
        to_client=_size_rate(rates["bytes_to_client"]),
        total=words.number(connections["total"]),
    )


def _size_rate(per_second: float | None) -> str:
    return words.UNKNOWN if per_second is None else f"{words.size(per_second)}/s"
