"""Difference: what changes from one configuration to another, line by line, and what it takes to bring it in.

Rule: `needs` says what the node does, or refuses, at a reload; `gateway.core.snapshot` and `gateway.control.succession`
are the judges, and this module says it before.
"""

import enum
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.config.canonical import Line, Part, canonical
from gateway.config.settings import Settings

SCHEMA = 1


class Needs(enum.StrEnum):
    """What it takes to bring a change in. The later one is the harder one."""

    RELOAD = "reload"  # of every node, one after the other
    HANDED_OVER = "refused while held"  # a node that leads by it refuses to reload: let another one lead before
    RESTART = "restart of every node"  # one by one: a reload refuses it


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `before` is None where the line is new, `after` where it is gone."""

    path: str
    before: str | None
    after: str | None
    needs: Needs

    def render(self) -> str:
        """Return it as a line of text."""
        if self.before is None:
            change = f"+ {self.path}" + (f": {self.after}" if self.after else "")
        elif self.after is None:
            change = f"- {self.path}" + (f": {self.before}" if self.before else "")
        else:
            change = f"~ {self.path}: {self.before or '(none)'} -> {self.after or '(none)'}"
        return change if self.needs is Needs.RELOAD else f"{change}  [{self.needs}]"


def differences(old: Settings, new: Settings) -> tuple[Difference, ...]:
    """Return every change from `old` to `new`, in the order of the sections; none where they say the same."""
    before, after = ({(part.kind, part.name): part for part in canonical(settings)} for settings in (old, new))
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        found += _of_part(before.get(key), after.get(key))
    return tuple(found)


def render_text(found: Iterable[Difference]) -> str:
    """Return a line for each difference, each ended by a newline."""
    return "".join(f"{difference.render()}\n" for difference in found)


def render_json(found: Iterable[Difference]) -> dict[str, Any]:
    """Return the differences as a document: `{"schema": 1, "differences": [{"path", "before", "after", "needs"}]}`."""
    return {"schema": SCHEMA, "differences": [msgspec.to_builtins(difference) for difference in found]}


def _of_part(before: Part | None, after: Part | None) -> list[Difference]:
    if before is None or after is None:
        part = before or after
        assert part is not None
        old, new = (None if one is None else "" for one in (before, after))
        needs = _needs_of_section(part.kind, gone=after is None)
        return [Difference(path=part.header, before=old, after=new, needs=needs)]
    were, are = ({(line.keyword, line.key): line for line in part.lines} for part in (before, after))
    found = []
    for key in [*were, *(key for key in are if key not in were)]:
        was, now = were.get(key), are.get(key)
        if was is None or now is None or was.value != now.value:
            found.append(_of_line(before, was, now))
    return found


def _of_line(part: Part, was: Line | None, now: Line | None) -> Difference:
    line = was or now
    assert line is not None
    return Difference(
        path=" ".join(word for word in (part.header, line.keyword, line.key) if word),
        before=was.value if was is not None else None,
        after=now.value if now is not None else None,
        needs=_needs(part.kind, line.keyword, was, now),
    )


def _needs_of_section(kind: str, *, gone: bool) -> Needs:
    if kind == "peers":
        return Needs.RELOAD  # another name of the section alone: what it says is compared with nothing
    return Needs.HANDED_OVER if gone and kind in {"address", "backend"} else Needs.RELOAD


def _needs(kind: str, keyword: str, was: Line | None, now: Line | None) -> Needs:
    if (kind, keyword) in _RESTARTS:
        return Needs.RESTART
    if (kind, keyword) == ("address", "ip"):
        return Needs.HANDED_OVER
    if (kind, keyword) == ("backend", "server") and now is None:
        return Needs.HANDED_OVER
    if (kind, keyword) == ("address", "holder") and was is not None and now is not None:
        return Needs.HANDED_OVER if {*was.value.split()} - {*now.value.split()} else Needs.RELOAD
    return Needs.RELOAD


# Peers make the majority; another cluster, or another place for what a node has promised, is another node.
_RESTARTS = frozenset({("peers", "peer"), ("global", "cluster"), ("global", "state-dir")})
