"""What a node carries, as text for a terminal: backends on a gateway, its relay, a manager's part in `forward direct`.

Rule: what is unknown is not shown, and neither is what never happened.
"""

from collections.abc import Mapping
from typing import Any, Final

DESCRIPTORS_WARNED_AT: Final = 0.8
BUSY_AT: Final = 0.8  # of a core
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
# Causes of `errors` that are a client's or a server's own doing, and no fault.
_USUAL: Final = frozenset({"reset by client", "reset by server"})
_SAID: Final = {"no server in time": "waited in vain for a server", "connect failed": "times no server accepted"}
_REFUSALS: Final = frozenset(
    {
        "maxconn",
        "maxconn-per-source",
        "source rate",
        "too many held",
        "transparent: address not usable",
        "transparent: no free port",
    }
)
_ONCE: Final = {  # figure of connections -> what has become of them
    "held": "held until there was a server",
    "replayed": "begun anew with another server",
    "drained": "ended in peace after a planned switch",
    "reset": "closed at a switch",
}


# -- a gateway -------------------------------------------------------------------------------------------------------


def render_backend(name: str, backend: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Return how a backend is reached, what was carried for it, and what went wrong."""
    way = f"forward {backend['way']}" + (" transparent" if backend["transparent"] else "")
    lines = [f"backend {name} ({way}): {_carrier(name, backend, document)}"]
    lines += [f"  {why}" for why in _why_relayed(backend)]
    connections, datagrams = backend["connections"], backend["datagrams"]
    lines += [f"  connections  {_connections(backend)}"] if connections["total"] or connections["now"] else []
    lines += [f"  datagrams    {_datagrams(backend)}"] if datagrams["to_server"] or datagrams["dropped"] else []
    lines += [f"  bytes        {_bytes(backend)}"] if backend["bytes"]["to_server"] else []
    once = [f"{_number(connections[what])} {said}" for what, said in _ONCE.items() if connections.get(what)]
    lines += [f"  of these     {', '.join(once)}"] if once else []
    lines += _relayed(backend) + _former(backend) + _errors(backend)
    return lines


def _carrier(name: str, backend: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    server = backend["server"]
    if not any(document["addresses"][address]["held"] for address in backend["addresses"]):
        holders = {document["elections"].get(address, {}).get("leader") for address in backend["addresses"]} - {None}
        return f"carried by {', '.join(sorted(holders))} now" if holders else "no gateway holds its address"
    if server is None:
        held = backend["connections"]["held_now"]
        return "nobody is elected, new connections wait" + (f": {_number(held)} so far" if held else "")
    fill = document["diversions"].get(name, {}).get("conntrack_fill")
    full = "" if fill is None else f" (whose table of flows is {_share(fill)} full)"
    return f"to {server}, by the {backend['carrier']}{full}"


def _why_relayed(backend: Mapping[str, Any]) -> list[str]:
    if backend["fault"]:
        return [f"the kernel cannot: {backend['fault']}"]
    if backend["refused"]:
        return [f"{backend['server']} is {backend['refused']}: the relay carries it"]
    if backend["way"] == "direct" and backend["server"] and backend["carrier"] == "relay":
        return [f"{backend['server']} does not say its MAC (no answer to ARP or neighbour solicitation)"]
    return []


def _connections(backend: Mapping[str, Any]) -> str:
    connections = backend["connections"]
    words = [f"{_rate(backend['rates']['connections'])}/s", f"{_number(connections['total'])} in all"]
    if connections["now"] is not None:
        kinds = (("silent", "silent"), ("held_now", "held"), ("draining", "of a former server"))
        parts = [f"{_number(connections[key])} {said}" for key, said in kinds if connections.get(key)]
        words.append(f"{_number(connections['now'])} now" + (f" ({', '.join(parts)})" if parts else ""))
    return ", ".join(words)


def _bytes(backend: Mapping[str, Any]) -> str:
    totals, rates = backend["bytes"], backend["rates"]
    words = [f"{_size(totals['to_server'])} from clients ({_size(rates['bytes_to_server'])}/s)"]
    if totals["to_client"] is None:
        words.append("answers do not pass here")
    else:
        words.append(f"{_size(totals['to_client'])} to clients ({_size(rates['bytes_to_client'])}/s)")
    return ", ".join(words)


def _datagrams(backend: Mapping[str, Any]) -> str:
    totals, rates = backend["datagrams"], backend["rates"]
    words = [f"{_number(totals['to_server'])} from clients ({_rate(rates['datagrams_to_server'])}/s)"]
    words += [f"{_number(totals['to_client'])} to clients"] if totals["to_client"] else []
    words += [f"{_number(totals['dropped'])} dropped"] if totals["dropped"] else []
    return ", ".join(words)


def _relayed(backend: Mapping[str, Any]) -> list[str]:
    """Return the relay's part where the kernel carries the rest."""
    relay = backend["relay"]
    connections, datagrams = relay["connections"], relay["datagrams"]["to_server"]
    if backend["kernel"] is None or not (connections["total"] or datagrams):
        return []
    words = [_many(connections["total"], "connection")] if connections["total"] else []
    words += [_many(datagrams, "datagram")] if datagrams else []
    now = f" ({_many(connections['now'], 'connection')} now)" if connections["now"] else ""
    return [f"  by the relay {', '.join(words)}{now}"]


def _former(backend: Mapping[str, Any]) -> list[str]:
    """Return what other servers than the elected one have had."""
    found = []
    for name, server in backend["servers"].items():
        total, carried = server["connections"]["total"], server["bytes"]["to_server"]
        if name != backend["server"] and (total or carried):
            found.append(f"{_many(total, 'connection')}, {_size(carried)} to {name}")
    return [f"  formerly     {'; '.join(found)}"] if found else []


def _errors(backend: Mapping[str, Any]) -> list[str]:
    errors = {cause: count for cause, count in backend["errors"].items() if cause not in _USUAL}
    refused = [f"{_number(count)} {cause}" for cause, count in errors.items() if cause in _REFUSALS]
    others = [
        f"{_number(count)} {_SAID.get(cause, cause)}" for cause, count in errors.items() if cause not in _REFUSALS
    ]
    lines = [f"  refused      {', '.join(refused)}"] if refused else []
    return [*lines, *([f"  errors       {', '.join(others)}"] if others else [])]


# -- the relay of any node -------------------------------------------------------------------------------------------


def render_relay(relay: Mapping[str, Any]) -> list[str]:
    """Return what the relay processes are, and what troubles them."""
    workers, descriptors = relay["workers"], relay["descriptors"]
    pids = ", ".join(str(worker["pid"]) for worker in workers if worker["pid"] is not None)
    many, restarts = descriptors["connections_max"], relay["restarts_total"]
    limit = f": up to {_number(many)} connections" if many else ""
    again = f", restarted {_many(restarts, 'time')}" if restarts else ""
    lines = [f"relay (pid {pids or 'none'}{again}){limit}"]
    if relay["degraded"]:
        reason = next(worker["reason"] for worker in workers if not worker["listening"])
        lines.append(f"  only {relay['listening']} of {len(workers)} processes listen: {reason}")
    for worker in workers:
        used, limit = worker["descriptors"]["used"], worker["descriptors"]["limit"]
        if used >= DESCRIPTORS_WARNED_AT * limit:
            lines.append(
                f"  process {worker['pid']} uses {_number(used)} of {_number(limit)} file descriptors: "
                "raise LimitNOFILE of the service"
            )
        if worker["cpu"] >= BUSY_AT:
            lines.append(f"  process {worker['pid']} is busy: {_share(worker['cpu'])} of a core")
    return lines


# -- a manager -------------------------------------------------------------------------------------------------------


def render_receiving(receiving: Mapping[str, Any] | None) -> list[str]:
    """Return whether this manager takes what gateways send to it under `forward direct`."""
    if receiving is None:
        return []
    lines = [
        f"  forward direct: {ip} is {'on lo, so that' if held else 'not on lo: no'} connections to it arrive here"
        for ip, held in receiving["addresses"].items()
    ]
    ended, left = receiving["destroyed_total"], receiving["undestroyed_total"]
    lines += [f"  {_many(ended, 'connection')} closed when another manager was elected"] if ended else []
    lines += [f"  {_many(left, 'connection')} could not be closed: the clients wait for a timeout"] if left else []
    lines += [f"  forward direct does not work here: {receiving['fault']}"] if receiving["fault"] else []
    return lines


def render_returns(returns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which way answers take back to clients under `transparent`, and what keeps them from it."""
    lines = []
    for device, back in returns.items():
        if back["fault"]:
            lines.append(f"  transparent: answers do not find back: {back['fault']}")
        elif device != "relay":  # that is a gateway's own part
            gateways = ", ".join(back["gateways"]) or "no gateway is known yet"
            lines.append(f"  transparent: answers to clients go back through the gateway they came by ({gateways})")
    return lines


# -- numbers ---------------------------------------------------------------------------------------------------------


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _many(count: int, what: str) -> str:
    return f"{_number(count)} {what}" + ("" if count == 1 else "s")


def _rate(per_second: float | None) -> str:
    if per_second is None:
        return "?"
    return _number(per_second) if per_second >= 10 or per_second == 0 else f"{per_second:.1f}"


def _size(count: float | None) -> str:
    size = float(count or 0)
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"


def _share(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.01 or part == 0 else "under 1 %"
