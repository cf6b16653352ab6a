"""Figures: what relay and kernel have carried, as one picture of each frontend, backend and server, whatever its way.

Rule: a figure that the way cannot know is None, never 0, and a sum with it is None too; one that cannot be is absent.

All have the shape of `gateway.control.traffic.figures`. What each way cannot know is in `NAT` and `DIRECT`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Final

from gateway.config.settings import Backend, Forward, Settings
from gateway.control.diversion import Carried
from gateway.control.traffic import figures as relay_figures

Figures = Mapping[str, Any]

NAT: Final[Figures] = {
    "connections": {"now": None, "draining": None, "total": 0, "refused": 0, "reset": 0, "drained": None},
    "bytes": {"to_server": 0, "to_client": 0},
    "flows": {"now": None, "total": 0},
    "datagrams": {"to_server": 0, "to_client": 0},
    "rates": dict.fromkeys(
        ("connections", "bytes_to_server", "bytes_to_client", "datagrams_to_server", "datagrams_to_client"), 0.0
    ),
}
DIRECT: Final[Figures] = {  # it sees packets one by one, and none of the answers
    "connections": {"now": None, "total": 0, "refused": 0, "reset": None},
    "bytes": {"to_server": 0, "to_client": None},
    "flows": {"now": None, "total": None},
    "datagrams": {"to_server": 0, "to_client": None},
    "rates": {
        "connections": 0.0,
        "bytes_to_server": 0.0,
        "bytes_to_client": None,
        "datagrams_to_server": 0.0,
        "datagrams_to_client": None,
    },
}
OF_WAY: Final[Mapping[Forward, Figures]] = {Forward.NAT: NAT, Forward.DIRECT: DIRECT}

SOURCE_RATE: Final = "source rate"  # as in `gateway.control.traffic`

_PLACES: Final = {
    "connections": ("connections", "total"),
    "refused": ("connections", "refused"),  # above `rate-per-source`
    "reset": ("connections", "reset"),
    "flows": ("flows", "total"),
    "bytes_to_server": ("bytes", "to_server"),
    "bytes_to_client": ("bytes", "to_client"),
    "datagrams_to_server": ("datagrams", "to_server"),
    "datagrams_to_client": ("datagrams", "to_client"),
}


def kernel_figures(
    way: Forward,
    counted: Mapping[str, int],
    rates: Mapping[str, float],
    open_now: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """Return what a way's rules have counted, by the names of `_PLACES`.

    Args:
        way: not PROXY.
        counted: totals.
        rates: of any of them, per second.
        open_now: "now" and "draining" connections, where somebody has looked.
    """
    found = {group: dict(names) for group, names in OF_WAY[way].items()}
    for name, number in counted.items():
        group, of_group = _PLACES[name]
        found[group][of_group] = number
    found["rates"] |= {name: round(rates[name], 1) for name in found["rates"].keys() & rates.keys()}
    found["connections"] |= open_now or {}
    return found


def errors(totals: Mapping[str, int]) -> dict[str, int]:
    """Return why a way's rules did not carry what came, by cause; causes that have not occurred are absent."""
    return {SOURCE_RATE: totals["refused"]} if totals.get("refused") else {}


def add(one: Figures, other: Figures) -> dict[str, Any]:
    """Return the sum of two, group by group; what one has alone stays."""
    found: dict[str, Any] = dict(one)
    for name, value in other.items():
        if name not in found:
            found[name] = value
        elif isinstance(value, Mapping):
            found[name] = add(found[name], value)
        else:
            found[name] = None if value is None or found[name] is None else round(found[name] + value, 1)
    return found


def of_backends(
    settings: Settings, relayed: Mapping[str, dict[str, Any]], carried: Mapping[str, list[Carried]]
) -> dict[str, dict[str, Any]]:
    """Return backend -> how it is reached and what was carried of it, in all and by server.

    Args:
        settings: of this node.
        relayed: what `Traffic.backends` says.
        carried: backend -> what the kernel does for it, at each of its addresses; `forward proxy`: nothing.
    """
    backends = {backend.name: backend for backend in settings.backends}
    return {
        name: _backend(settings, backends[name], dict(by_relay), carried.get(name, []))
        for name, by_relay in relayed.items()
    }


def _backend(settings: Settings, backend: Backend, relayed: dict[str, Any], carried: list[Carried]) -> dict[str, Any]:
    elected, by_relay = relayed.pop("server"), relayed.pop("servers")
    by_kernel = reduce(add, (one.figures for one in carried)) if carried else None
    return {
        "way": str(backend.forward),
        "transparent": backend.transparent,
        "server": elected,
        "carrier": "kernel" if carried and all(one.carries for one in carried) else "relay",
        "state": _first(one.state for one in carried),
        "fault": _first(one.fault for one in carried),
        "refused": _first(one.refused for one in carried) or None,
        "frontends": [one.name for one in settings.frontends if one.backend == backend.name],
        "addresses": _addresses(settings, backend),
        **(relayed if by_kernel is None else add(relayed, by_kernel)),
        "servers": {
            server.name: {"elected": server.name == elected, **_server(server.name, backend.forward, by_relay, carried)}
            for server in backend.servers
        },
        "relay": relayed,
        "kernel": by_kernel,
    }


def _server(name: str, way: Forward, by_relay: Mapping[str, Figures], carried: list[Carried]) -> dict[str, Any]:
    relayed = by_relay.get(name) or relay_figures(Counter(), Counter())
    none_now = {"now": 0, "draining": 0} if way is Forward.NAT else None  # neither elected nor the one before
    by_kernel = [one.servers.get(name) or kernel_figures(way, {}, {}, none_now) for one in carried]
    return reduce(add, by_kernel, dict(relayed))


def of_frontends(
    settings: Settings, relayed: Mapping[str, Figures], backends: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return frontend -> its figures. The kernel counts by backend: with several frontends none knows its part."""
    found = {}
    for frontend in settings.frontends:
        if frontend.name not in relayed:
            continue
        backend = backends[frontend.backend]
        figures = dict(relayed[frontend.name])
        if backend["kernel"] is not None:
            alone = backend["frontends"] == [frontend.name]
            by_kernel = backend["kernel"] if alone else _unknown(backend["kernel"]) | {"errors": {}}
            figures = add(figures, by_kernel)
        found[frontend.name] = {"backend": frontend.backend, "way": backend["way"], **figures}
    return found


def _unknown(figures: Figures) -> dict[str, Any]:
    return {name: _unknown(value) if isinstance(value, Mapping) else None for name, value in figures.items()}


def _addresses(settings: Settings, backend: Backend) -> list[str]:
    bound = {bind.address for one in settings.frontends if one.backend == backend.name for bind in one.binds}
    return [address.name for address in settings.addresses if address.name in bound]


def _first(said: Iterable[str | None]) -> str:
    return next((one for one in said if one), "")
