"""Who holds what, since when and why, as text: the first thing that an operator wants to see.

Rule: at a glance, in a hundred columns. What is not known is not shown; a number has its unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.console.paint import PLAIN, Paint

COLUMNS: Final = 100
HEARD_MS: Final = 1_000  # a candidate that was heard longer ago is not heard
ADS: Final = ("slot", "startd", "schedd")  # of the kinds of ads that a collector has, those that tell its health
NO_SERVICE: Final = {"address": "nobody answered", "matchmaker": "no negotiator"}
OF_LEADER: Final = ("lease_left_ms", "answered_ms_ago", "last_change")
CAUSES: Final = {
    "lease-expired": "{from} fell silent",
    "requested": "{from} gave it up",
    "unfit": "{from} could not serve",
    "died": "{from} died",
    "link-down": "{from} lost its link",
    "suspended": "{from} was suspended",
    "superseded": "{from} was superseded",
    "resigned": "{from} resigned",
    "first": "the first leader",
    "unseen": "elected while this node did not look",
}

Document = Mapping[str, Any]


def render_election(
    name: str,
    document: Document,
    now_s: float,
    *,
    others: Mapping[str, Document] | None = None,
    paint: Paint = PLAIN,
    new: bool = False,
) -> list[str]:
    """Return one election: its leader, why, and the candidates.

    Args:
        name: of the election.
        document: the status of the node that is looked at.
        now_s: unix time.
        others: what other nodes say of themselves, where they were asked.
        paint: colours.
        new: whether the leader has just changed.
    """
    election = _fullest(name, document, others or {})
    leader = election["leader"]
    head = f"{election['kind']} {name}: "
    if leader is None:
        lost = election.get("lost")
        since = f" for {duration(lost['ms_ago'] / 1000)}" if lost else ""
        lines = [paint("bold", head) + paint("bad", "nobody") + f"{since} (term {election['term']})"]
        lines += [f"  {_said(lost)}"] if lost else []
        lines += [f"  {few}"] if (few := _too_few(document)) else []
    else:
        held = paint("new" if new else "good", leader)
        lines = [paint("bold", head) + held + _since(election, now_s) + f" ({_lease(election, document)})"]
        lines += _reasons(election)
    return lines + _candidates(name, document, others or {}, paint)


def _fullest(name: str, document: Document, others: Mapping[str, Document]) -> Document:
    """Return the election as this node sees it, with what its leader alone knows where that was asked."""
    election: Document = document["elections"][name]
    leading = others.get(election["leader"] or "", {}).get("elections", {}).get(name)
    if leading is None or (leading["leader"], leading["term"]) != (election["leader"], election["term"]):
        return election
    return {**election, **{key: leading[key] for key in OF_LEADER if leading.get(key) is not None}}


def _since(election: Document, now_s: float) -> str:
    change = election.get("last_change")
    if change is None or (change["to"], change["term"]) != (election["leader"], _leader_term(election)):
        return ""
    return f" for {duration(now_s - change['at'])}"


def _leader_term(election: Document) -> int:
    # The highest term that a node has heard of may be that of a candidate that was not elected.
    return int(election.get("leader_term") or election["term"])


def _lease(election: Document, document: Document) -> str:
    words = [f"term {_leader_term(election)}"]
    if election["lease_left_ms"] is not None:
        whole = document.get("timing", {}).get("lease_ms")
        words.append(f"lease {election['lease_left_ms']}{f' of {whole}' if whole else ''} ms left")
        answered = election.get("answered_ms_ago")
        if answered is not None and whole:
            votes = 1 + sum(1 for ago_ms in answered.values() if ago_ms < whole)
            words.append(f"{votes} of {1 + len(document['peers'])} votes")
    return ", ".join(words)


def _too_few(document: Document) -> str:
    """Say that too few voters are heard for anybody to be elected, where that is so."""
    heard = 1 + sum(1 for peer in document["peers"].values() if _heard(peer))
    voters = 1 + len(document["peers"])
    needed = voters // 2 + 1
    return f"{heard} of {voters} voters are heard, and {needed} must agree" if heard < needed else ""


def _why(election: Document) -> str:
    change = election.get("last_change")
    return "" if change is None else _said(change)


def _said(change: Document) -> str:
    said = CAUSES.get(change["cause"], str(change["cause"])).format_map({"from": change["from"] or "nobody"})
    if change["cause"] in ("first", "died", "unseen") or not change["detail"]:
        return said
    return f"{said}: {change['detail']}"


def _reasons(election: Document) -> list[str]:
    """Return why the leader is who it is, and what the change cost: one line where that fits."""
    said = [text for text in (_why(election), _gap(election)) if text]
    line = "  " + "; ".join(said)
    return [f"  {text}" for text in said] if len(line) > COLUMNS else [line] if said else []


def _gap(election: Document) -> str:
    change = election.get("last_change")
    if change is None or change["gap_ms"] is None:
        return ""
    return f"{NO_SERVICE[election['kind']]} for {change['gap_ms']} ms"


# -- candidates ------------------------------------------------------------------------------------------------------


def _candidates(name: str, document: Document, others: Mapping[str, Document], paint: Paint) -> list[str]:
    election = document["elections"][name]
    rows = []
    drained = (document.get("orders") or {}).get("drained", ())
    for candidate, standing in election["candidates"].items():
        cells = (
            _manager(name, candidate, standing, document, others)
            if election["kind"] == "matchmaker"
            else (_state(standing),)
        )
        if candidate in drained:
            cells = (f"{cells[0]}, drained" if "drained" not in cells[0] else cells[0], *cells[1:])
        mark = "*" if candidate == election["leader"] else " "
        rows.append([f"{mark} {candidate}", *cells])
    heads = ["  manager", "collector", "negotiator", "ads", "accounting"] if election["kind"] == "matchmaker" else []
    heads = [head if any(row[at] for row in rows) else "" for at, head in enumerate(heads)]  # of what anybody knows
    lines = table([heads, *rows] if heads else rows, indent=2)
    if heads:
        lines[0] = paint("dim", lines[0])
    return [_coloured(line, paint) for line in lines]


def _coloured(line: str, paint: Paint) -> str:
    for bad in ("not heard", "not fit", "down ("):
        if bad in line:
            return line.replace(bad, paint("bad", bad))
    return line


def _state(standing: Document | None) -> str:
    if standing is None or not _heard(standing):
        return "not heard"
    return "fit" if standing["fit"] else f"not fit{_because(standing)}"


def _because(standing: Document) -> str:
    return f": {standing['reason']}" if standing.get("reason") else ""


def _heard(standing: Document) -> bool:
    ago_ms = standing["heard_ms_ago"]
    return ago_ms is not None and ago_ms < HEARD_MS


def _manager(
    name: str, candidate: str, standing: Document | None, document: Document, others: Mapping[str, Document]
) -> tuple[str, ...]:
    """Return a manager's collector, negotiator, ads, accounting, as far as this node knows, or was told."""
    if standing is None or not _heard(standing):
        return ("not heard", "", "", "")
    election = document["elections"][name]
    here = candidate == document["node"]
    own = document["matchmakers"].get(name) if here else others.get(candidate, {}).get("matchmakers", {}).get(name)
    leads = candidate == election["leader"]
    warm = "" if leads else (", warm" if standing["warm"] else ", cold")
    if own is not None:
        collector = f"{own['collector']}{warm}"
        negotiator = "running" if own["negotiator_running"] else ("NOT RUNNING" if leads else "-")
        if own.get("negotiator_left_alone"):
            negotiator = "left alone"  # HTCondor's own affair: no 'negotiator on-elected'
    else:
        collector = ("up" if standing["fit"] else f"not fit{_because(standing)}") + warm
        negotiator = ""
    return (
        collector,
        negotiator,
        _ads(name, candidate, own, document, others),
        _accounting(candidate, election, document),
    )


def _ads(name: str, candidate: str, own: Document | None, document: Document, others: Mapping[str, Document]) -> str:
    """Return the ads that a collector has: its own leader's word, or that of the leader that has counted them."""
    leader = document["elections"][name]["leader"]
    of_leader = document if leader == document["node"] else others.get(leader or "", {})
    counted = (
        own
        if candidate == leader
        else of_leader.get("matchmakers", {}).get(name, {}).get("standbys", {}).get(candidate)
    )
    ads = (counted or {}).get("ads") or {}
    found = [f"{ads[kind]} {kind}{'' if ads[kind] == 1 else 's'}" for kind in ADS if kind in ads]
    return ", ".join(found)


def _accounting(candidate: str, election: Document, document: Document) -> str:
    """Return how far a manager's copy of the accounting is behind the leader's, from what both say of themselves."""
    standings = election["candidates"]
    mine, leading = standings[candidate], standings.get(election["leader"] or "")
    if not any(one and one["term"] for one in standings.values()):
        return ""  # not replicated
    version = f"{mine['term']}.{mine['generation']}.{mine['records']}"
    if candidate == election["leader"] or leading is None:
        return version
    if (mine["term"], mine["generation"]) != (leading["term"], leading["generation"]):
        return f"another file: {version}"
    behind = leading["records"] - mine["records"]
    return "whole" if behind <= 0 else f"{behind} records behind"


# -- tables and times ------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], *, indent: int = 0, right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows as lines, each column as wide as its widest cell; the columns in `right` end at one place."""
    if not rows:
        return []
    count = max(len(row) for row in rows)
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[at]) for row in full) for at in range(count)]
    lines = []
    for row in full:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(
            " " * indent + "  ".join(cell for cell, width in zip(cells, widths, strict=True) if width).rstrip()
        )
    return lines


def duration(seconds: float) -> str:
    """Return a time in its largest fitting unit: "12 s", "3 min", "5 h", "8 d"."""
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
