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
                attention.append(("warn", f"{name} cannot use 'forward {figures.get('way')}' for {backend}: "
                                          f"{figures['fault']}."))  # fmt: skip
        relay = document.get("relay")
        if relay is not None and relay.get("degraded"):
            whole = len(relay.get("workers") or ())
            attention.append(("warn", f"Only {relay.get('listening')} of {whole} relay processes of {name} listen."))
        for device, back in (document.get("returns") or {}).items():
            if back.get("fault"):
                attention.append(("warn", f"Answers do not find back through {device} of {name}: {back['fault']}."))
    return TrafficView(tuple(sorted(flows, key=lambda flow: (not flow.holds, flow.gateway))), tuple(attention))


def _flow(gateway: str, document: Document, frontend: str) -> FlowView:
    figures = document["frontends"][frontend]
    name = words.found(figures, "backend") or ""
    backend = words.found(document, "backends", name) or {}
    holds = any(words.found(document, "addresses", one, "held") for one in backend.get("addresses") or ())
    return FlowView(
        gateway=gateway,
        holds=holds,
        frontend=frontend,
        backend=name,
        way=words.found(figures, "way") or words.UNKNOWN,
        server=backend.get("server") or "nobody",
        connections=words.number(words.found(figures, "connections", "now")),
        connection_rate=words.rate(words.found(figures, "rates", "connections")),
        flows=words.number(words.found(figures, "flows", "now")),
        datagram_rate=words.rate(words.found(figures, "rates", "datagrams_to_server")),
        to_server=_size_rate(words.found(figures, "rates", "bytes_to_server")),
        to_client=_size_rate(words.found(figures, "rates", "bytes_to_client")),
        total=words.number(words.found(figures, "connections", "total")),
    )


def _size_rate(per_second: float | None) -> str:
    return words.UNKNOWN if per_second is None else f"{words.size(per_second)}/s"
