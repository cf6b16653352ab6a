"""The status document as text for a terminal. Reads the document alone, so that it shows what programs see too."""

import time
from collections.abc import Mapping
from typing import Any

from gateway.console.accounting_text import render_accounting
from gateway.console.elections_text import render_election
from gateway.console.orders_text import order_lines
from gateway.console.paint import PLAIN, Paint
from gateway.console.traffic_text import render_backend, render_receiving, render_relay, render_returns


def render_status(
    document: dict[str, Any],
    *,
    now_s: float | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
    paint: Paint = PLAIN,
    new: frozenset[str] = frozenset(),
) -> str:
    """Return who leads what and why, which candidates there are, what is carried, and what is wrong.

    Args:
        document: of one node.
        now_s: unix time; None: now.
        others: documents of other nodes, where they were asked.
        paint: colours.
        new: elections whose leader has just changed.
    """
    now_s = time.time() if now_s is None else now_s
    lines = _head(document, paint)
    lines += [paint("warn", line) for line in order_lines(document.get("orders"))]
    lines += [paint("warn", f"warning: {warning}") for warning in document["warnings"]]
    for name in document["elections"]:
        lines += ["", *render_election(name, document, now_s, others=others, paint=paint, new=name in new)]
    for name, matchmaker in document["matchmakers"].items():
        lines += _matchmaker(name, matchmaker)
        lines += render_receiving(document["receiving"].get(name))
    lines += render_returns(document["returns"])
    for name, address in document["addresses"].items():
        lines += _address(name, address)
    for name, backend in document["backends"].items():
        lines += ["", *render_backend(name, backend, document), *_frontends(name, document)]
    lines += ["", *render_relay(document["relay"])] if document["relay"] is not None else []
    lines += _guard(document["guard"]) + _children(document.get("children", {}))
    return "\n".join(lines)


def _head(document: dict[str, Any], paint: Paint) -> list[str]:
    silent = [name for name, peer in document["peers"].items() if not _heard(peer["heard_ms_ago"])]
    count = len(document["peers"])
    who = f"{document['node']} ({', '.join(document['roles'])})"
    head = paint("bold", f"cluster {document['cluster']}") + f", seen from {who}"
    lines = [f"{head}, peers: {count - len(silent)} of {count} heard"]
    return [*lines, *([f"  {paint('bad', 'not heard')}: {', '.join(silent)}"] if silent else [])]


def _frontends(backend: str, document: dict[str, Any]) -> list[str]:
    """Return each frontend's part, where a backend has several."""
    found = {name: one for name, one in document.get("frontends", {}).items() if one["backend"] == backend}
    lines = []
    for name, one in found.items() if len(found) > 1 else ():
        counted = {word: one["connections"].get(key) for key, word in (("now", "now"), ("total", "in all"))}
        words = [f"{count:,} {word}" for word, count in counted.items() if count is not None]
        rate = one["rates"]["connections"]
        words += [f"{rate:g}/s"] if rate is not None else []
        lines.append(f"  frontend {name}: connections {', '.join(words) or 'not counted by themselves'}")
    return lines


def _heard(ago_ms: int | None) -> bool:
    return ago_ms is not None and ago_ms < 1_000


def _matchmaker(name: str, matchmaker: dict[str, Any]) -> list[str]:
    negotiator = f"running (pid {matchmaker['negotiator_pid']})" if matchmaker["negotiator_running"] else "not running"
    if matchmaker.get("negotiator_left_alone"):
        negotiator = "left alone (the file does not say 'negotiator on-elected')"
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


def _children(children: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return those that do not run: what does is not worth a line."""
    return [
        f"the {name} does not run: {child['failure']}"
        for name, child in children.items()
        if child["pid"] is None and child["failure"]
    ]
