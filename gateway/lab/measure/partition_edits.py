"""What administrators do on the two sides of a cut pool, and what must be there when it is whole again. Pure.

Each side edits its own users, adds one and deletes another; one user is edited on both sides, differently.
"""

from collections.abc import Sequence

import msgspec

from gateway.lab.measure.userprio import Edit, Kind, Prio
from gateway.lab.topology import DOMAIN

# Who submits where. The first one is on both sides: what he uses on each must add up.
SHARED = "physicist"
USERS = ((SHARED, "chemist"), (SHARED, "biologist"))
ADDED_BY_JOBS = "astronomer"  # begins to submit on the second side during the cut


def _name(user: str) -> str:
    return f"{user}@{DOMAIN}"


class Plan(msgspec.Struct, frozen=True):
    """Edits of one repeat: `before` the cut, on each side during it, and the one that is made on both."""

    before: tuple[Edit, ...]
    sides: tuple[tuple[Edit, ...], tuple[Edit, ...]]
    conflict: tuple[Edit, Edit]

    @property
    def one_sided(self) -> tuple[Edit, ...]:
        """Return what must show afterwards, whoever made it."""
        return self.sides[0] + self.sides[1]


def plan(repeat: int) -> Plan:
    """Return the edits of a repeat; no two repeats set the same values."""
    n = repeat % 100
    leavers = [_name(f"leaver{repeat}{side}") for side in ("a", "b")]
    return Plan(
        before=tuple(Edit(Kind.FACTOR, leaver, 1500) for leaver in leavers),
        sides=(
            (
                Edit(Kind.FACTOR, _name("chemist"), 1100 + n),
                Edit(Kind.CEILING, _name("chemist"), 5100 + n),
                Edit(Kind.FACTOR, _name(f"newcomer{repeat}"), 1200 + n),
                Edit(Kind.USAGE, _name(f"newcomer{repeat}"), 3000),
                Edit(Kind.DELETE, leavers[0]),
            ),
            (
                Edit(Kind.FACTOR, _name("biologist"), 1300 + n),
                Edit(Kind.CEILING, _name("biologist"), 5300 + n),
                Edit(Kind.FACTOR, _name(ADDED_BY_JOBS), 1400 + n),
                Edit(Kind.DELETE, leavers[1]),
            ),
        ),
        conflict=(
            Edit(Kind.FACTOR, _name(SHARED), 1500 + n),
            Edit(Kind.FACTOR, _name(SHARED), 1700 + n),
        ),
    )


def lost(edits: Sequence[Edit], prio: Prio) -> tuple[str, ...]:
    """Return the edits that do not show."""
    return tuple(edit.text for edit in edits if not edit.shows_in(prio))


def conflict_value(made: Plan, prio: Prio) -> int | None:
    """Return which of the two values of the conflict shows; None: neither."""
    return next((edit.value for edit in made.conflict if edit.shows_in(prio)), None)
