"""The `show` commands that HAProxy does not have: elections, leases, addresses, replicas, orders.

One line a thing, `name: key=value...`, so that `grep` and `awk` do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.console.stats.language import Asker, Session
from gateway.console.stats.looking import HISTORY_MAX, history_lines


async def show_election(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show election [name]`: who leads what, and who could."""
    document = await node.status()
    lines = []
    for name, election in document["elections"].items():
        if words[2:3] and words[2] != name:
            continue
        lines.append(_line(name, {key: election[key] for key in ("kind", "role", "leader", "term", "lease_left_ms")}))
        lines += [
            _line(f"  {candidate}", standing if standing is not None else {"heard_ms_ago": None})
            for candidate, standing in election["candidates"].items()
        ]
    return "".join(lines)


async def show_lease(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show lease`: what this node leads, and for how long yet."""
    document = await node.status()
    return "".join(
        _line(name, {"held": election["lease_left_ms"] is not None, "left_ms": election["lease_left_ms"],
                     "term": election["term"], "leader": election["leader"]})
        for name, election in document["elections"].items()
    )  # fmt: skip


async def show_address(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show address`: the virtual addresses that this node may hold."""
    document = await node.status()
    lines = []
    for name, address in document["addresses"].items():
        plain = {key: value for key, value in address.items() if not isinstance(value, Mapping)}
        lines.append(_line(name, plain))
        lines += [_line(f"  claimed by {mac}", claim) for mac, claim in address["claimed_by"].items()]
    return "".join(lines)


async def show_replication(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show replication`: ads and accounting of this manager, and of its standbys where it is elected."""
    document = await node.status()
    lines = []
    for name, matchmaker in document["matchmakers"].items():
        accounting = matchmaker.get("accounting", {})
        own = {"negotiator": matchmaker["negotiator_running"], "collector": matchmaker["collector"]}
        own |= {key: accounting[key] for key in ("term", "generation", "records", "merges_total") if key in accounting}
        lines.append(_line(name, own | _ads(matchmaker)))
        for standby, warmth in matchmaker["standbys"].items():
            plain = {key: value for key, value in warmth.items() if not isinstance(value, Mapping)}
            lines.append(_line(f"  {standby}", plain | _ads(warmth)))
        for standby, shipped in accounting.get("standbys", {}).items():
            lines.append(_line(f"  {standby} accounting", shipped))
        for key in ("pending", "waiting"):
            lines += [_line(f"  {key}", {"history": history}) for history in accounting.get(key, ())]
        lines += [_line("  unmerged", one) for one in accounting.get("unmerged", ())]
    return "".join(lines)


async def show_history(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show history [count]`: the last changes of leader, and what each took."""
    count = words[2] if words[2:3] and words[2].isascii() and words[2].isdigit() else str(HISTORY_MAX)
    return history_lines(await node.request("history", limit=min(int(count), HISTORY_MAX)))


async def show_orders(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show orders`: whether the cluster is paused, and which nodes are drained."""
    orders = (await node.status()).get("orders")
    if not orders:
        return _line("orders", {"paused": None, "drained": None})
    plain = {key: value for key, value in orders.items() if key != "drains"}  # who drained which is in status
    return _line("orders", plain)


def _ads(collector: Mapping[str, Any]) -> dict[str, Any]:
    return {f"ads_{kind}": count for kind, count in collector.get("ads", {}).items()}


def _line(name: str, fields: Mapping[str, Any]) -> str:
    return f"{name}: {' '.join(f'{key}={_word(value)}' for key, value in fields.items())}\n"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None or value == "" else str(value).replace(" ", "_")
