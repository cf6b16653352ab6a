"""The status document as text for a terminal. Reads the document alone, so that it shows what programs see too."""

from typing import Any

from gateway.console.accounting_text import render_accounting
from gateway.console.traffic_text import render_backend, render_receiving, render_relay, render_returns


def render_status(document: dict[str, Any]) -> str:
    """Return a few lines: who leads what, which candidates there are, which peers are heard."""
    lines = [f"cluster {document['cluster']}, seen from {document['node']} ({', '.join(document['roles'])})", ""]
    for name, election in document["elections"].items():
        leader = election["leader"] or "nobody"
        left = f", lease {election['lease_left_ms']} ms" if election["lease_left_ms"] is not None else ""
        lines.append(f"{election['kind']} {name}: {leader} (term {election['term']}{left})")
        for candidate, standing in election["candidates"].items():
            mark = "*" if candidate == election["leader"] else " "
            lines.append(f"  {mark} {candidate:<16} {_standing(standing, election['kind'])}")
    silent = [name for name, peer in document["peers"].items() if not _heard(peer["heard_ms_ago"])]
    lines += ["", f"peers: {len(document['peers']) - len(silent)} of {len(document['peers'])} heard"]
    lines += [f"  not heard: {', '.join(silent)}"] if silent else []
    for name, matchmaker in document["matchmakers"].items():
        lines += _matchmaker(name, matchmaker)
        lines += render_receiving(document["receiving"].get(name))
    lines += render_returns(document["returns"])
    for name, address in document["addresses"].items():
        lines += _address(name, address)
    for name, backend in document["backends"].items():
        lines += ["", *render_backend(name, backend, document)]
    lines += ["", *render_relay(document["relay"])] if document["relay"] is not None else []
    lines += _guard(document["guard"])
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


def _heard(ago_ms: int | None) -> bool:
    return ago_ms is not None and ago_ms < 1_000


def _standing(standing: dict[str, Any] | None, kind: str) -> str:
    if standing is None or not _heard(standing["heard_ms_ago"]):
        return "not heard"
    words = ["fit" if standing["fit"] else "not fit"]
    if kind == "matchmaker":
        words.append("warm" if standing["warm"] else "cold")
        words.append(f"accounting {standing['term']}.{standing['generation']}.{standing['records']}")
    return ", ".join(words)


def _matchmaker(name: str, matchmaker: dict[str, Any]) -> list[str]:
    negotiator = "running" if matchmaker["negotiator_running"] else "not running"
    lines = ["", f"this manager ({name}): negotiator {negotiator}, collector {matchmaker['collector']}"]
    return lines + render_accounting(matchmaker.get("accounting", {})) + _warmth(matchmaker)


def _warmth(matchmaker: dict[str, Any]) -> list[str]:
    """Return the ads of the elected manager's collector and, below it, of each standby's; nothing on a standby."""
    standbys = matchmaker["standbys"]
    if not standbys:
        return []
    kinds = list(matchmaker.get("ads", {}))
    lines = [f"  {'ads of':<16} " + "".join(f"{kind:>10}" for kind in kinds)] if kinds else []
    lines += [f"  {'this manager':<16} {_ads(matchmaker, kinds)}{_looked(matchmaker)}"] if kinds else []
    for name, standby in standbys.items():
        words = [
            "forwarding" if standby["forwarding"] else "not reached",
            "primed" if standby["primed"] else "not primed",
        ]
        lines.append(
            f"  {name:<16} {_ads(standby, kinds)}  {', '.join([*words, *_differences(standby)])}{_looked(standby)}"
        )
    return lines


def _ads(collector: dict[str, Any], kinds: list[str]) -> str:
    ads = collector.get("ads", {})
    return "".join(f"{ads.get(kind, '?'):>10}" for kind in kinds)


def _differences(standby: dict[str, Any]) -> list[str]:
    if "ads" not in standby:
        return []
    found = [f"{standby[kind]} {kind}" for kind in ("missing", "stale", "extra") if standby[kind]]
    lacks = " ".join(standby["lacks"])
    return [*found, *([f"lacks {lacks}"] if lacks else [])] or ["nothing differs"]


def _looked(collector: dict[str, Any]) -> str:
    return f" (seen {collector['looked_ms_ago'] / 1000:.0f} s ago)" if "ads" in collector else ""


def _address(name: str, address: dict[str, Any]) -> list[str]:
    held = "holds" if address["held"] else "does not hold"
    lines = ["", f"this gateway {held} {name} (lease kept by {address['fence']})"]
    lines += [f"  claimed by {mac} for {claim['for_ms']} ms" for mac, claim in address["claimed_by"].items()]
    return lines


def _guard(guard: dict[str, Any] | None) -> list[str]:
    if guard is None:
        return ["", "no guard: nobody resigns for this process when it dies"]
    killed = [f"killed {count} times as {cause}" for cause, count in guard["control_killed_total"].items() if count]
    restarts = guard["control_restarts_total"]
    done = [f"control restarted {restarts} times"] if restarts else []
    return ["", f"guard (pid {guard['pid']}){': ' if done or killed else ''}{', '.join([*done, *killed])}"]
