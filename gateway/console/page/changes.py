"""Changes of leaders as all nodes together know them: each knows other phases, the new leader most of them. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

Change = Mapping[str, Any]
UNSEEN = "unseen"  # the cause of what a node has only heard of afterwards


def merged(own: Iterable[Change], others: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """Return every change once, as the node told it that knows most of it: the new leader, where it was asked.

    Args:
        own: the changes of this node's history.
        others: node -> what it has answered to `history`, or {"error": ...}.
    """
    found: dict[tuple[str, int, str], tuple[tuple[bool, bool, int], Change]] = {}
    told = [("", change) for change in own]
    told += [(node, change) for node, history in others.items() for change in history.get("changes") or ()]
    for node, change in told:
        try:
            key = (change["election"], change["term"], change["to"])
            worth = (change["cause"] != UNSEEN, change["to"] == node, len(change["phases"]))
            float(change["at"]), change["seq"], change["kind"]
        except (KeyError, TypeError, ValueError):
            continue  # of another version
        if key not in found or worth > found[key][0]:
            found[key] = worth, change
    return sorted((change for _, change in found.values()), key=lambda change: float(change["at"]))
