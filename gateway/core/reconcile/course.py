"""Course: a merge that can go on: where one side has since written more, only what that changes is merged again.

Rule: what is not merged again would have come out the same. A customer at rest on all sides (no matches, the lowest
priority) depends on its own records alone; any other also on the times of the sides and on the overlap of their
matches, and is merged again when one of these is another.
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.reconcile.claims import Groups, groups_of
from gateway.core.reconcile.customers import Context, Outcome, merge_customer
from gateway.core.reconcile.others import merge_others, others_of
from gateway.core.reconcile.overlap import find_overlap
from gateway.core.reconcile.report import CustomerReport, Edit, Tally, View
from gateway.core.reconcile.settle import History, extended, history
from gateway.core.reconcile.sides import CUSTOMER, RESOURCE, Pool, Side
from gateway.core.reconcile.usage import Moments
from gateway.wire.accountant import State

Changes = Mapping[str, dict[str, str] | None]  # key -> the record as it is now, None where it is deleted


class Course:
    """The merge of two or more sides that all differ from the base. `sides`: best first, names spelled alike.

    Attributes:
        state: the merged one, by key.
        lines, edits, usage, weighted, notes, views: as in `Report`; the first two by customer.
        other_edits: of what belongs to no customer.
    """

    def __init__(self, base: Side, sides: Sequence[Side], pool: Pool) -> None:
        self.sides = list(sides)
        self.state: State = {}
        self.lines: dict[str, CustomerReport] = {}
        self.edits: dict[str, list[Edit]] = {}
        self.other_edits: list[Edit] = []
        self.notes: list[str] = []
        self._base = base
        self._pool = pool
        self._before = history(base, pool)
        self._ends = [history(side, pool) for side in sides]  # as their files say; the survivor not extended
        self._tallies: dict[str, tuple[Tally, Tally]] = {}  # of customers that are not at rest
        self._names = [side.name for side in sides]
        self.usage, self.weighted = (Tally(charged=dict.fromkeys(self._names, 0)) for _ in range(2))
        self._others = [others_of(side.state) for side in (base, *sides)]
        keys = set[str]().union(*(side.state for side in (base, *sides)))
        self._groups = groups_of(keys)
        context = self._context = self._look()
        for key in sorted([key for key in keys if key.startswith(CUSTOMER)]):
            self._put(key, merge_customer(key, context))
        self.state.update((key, ad) for key, ad in sides[0].state.items() if key.startswith(RESOURCE))
        self._merge_others()
        self.state = {key: self.state[key] for key in sorted(self.state)}

    @property
    def base_s(self) -> int:
        """Until when the base is charged."""
        return self._before.settled_s

    @property
    def merged_s(self) -> int:
        """Until when the merged state is."""
        return self._context.moments.merged_s

    @property
    def views(self) -> list[View]:
        """How far any two sides saw the same matches."""
        return self._context.overlap.views

    @property
    def histories(self) -> dict[str, History]:
        """The sides as they were merged, by name."""
        return {side.side.name: side for side in self._context.sides}

    def follow(self, side: Side, changes: Changes) -> set[str]:
        """Merge again what follows from the `changes` of one side; return the keys whose merged record may be new.

        Args:
            side: one of those that were merged, as it is now; it keeps its place among them.
            changes: its records that are not as they were, in the common spelling.
        """
        number = self._names.index(side.name)
        before = self._context
        self.sides[number] = side
        self._ends[number] = history(side, self._pool)
        touched = {key.removeprefix(CUSTOMER) for key in changes if key.startswith(CUSTOMER)}
        for name in touched:
            if "@" not in name:
                (self._groups.add if self._is_known(name) else self._groups.discard)(name)
        now = self._context = self._look()
        again = touched | before.busy | now.busy
        if _circumstances(before) != _circumstances(now):
            again |= self._tallies.keys()
        for customer in again:
            self._take(customer)
            if self._is_known(customer):
                self._put(CUSTOMER + customer, merge_customer(CUSTOMER + customer, now))
        fresh = {CUSTOMER + customer for customer in again}
        for key, ad in changes.items():
            if key.startswith(RESOURCE):
                if number == 0:
                    fresh.add(key)
                    _set(self.state, key, ad)
            elif not key.startswith(CUSTOMER):
                fresh.add(key)
                _set(self._others[1 + number], key, ad)
                self.state.pop(key, None)  # comes again, if it does
        return fresh | self._merge_others()

    def _look(self) -> Context:
        """Find what is the same for all customers."""
        pool, before, sides = self._pool, self._before, list(self._ends)
        merged_s = max(before.settled_s, *(side.settled_s for side in sides))
        gap_s = merged_s - sides[0].settled_s
        self.notes = []
        if gap_s > pool.extend_s_max:
            self.notes.append(
                f"{self._names[0]} survives, but last charged {gap_s} s before the merge: "
                "that is too long ago to charge its matches until then"
            )
        sides[0] = extended(sides[0], merged_s, pool)
        overlap = find_overlap(before, sides, Groups(self._groups), merged_s, pool)
        moments = Moments(before.settled_s, [side.settled_s for side in sides], merged_s, pool.half_life_s)
        busy = set[str]().union(before.uses, *(side.uses for side in sides), overlap.shared.of)
        busy.update(*(ledger.of for ledger in (*overlap.phantom, *overlap.stale)))
        return Context(before, sides, [side.side.state for side in sides], self._names, moments, overlap, pool, busy)

    def _is_known(self, customer: str) -> bool:
        key = CUSTOMER + customer
        return key in self._base.state or any(key in side.state for side in self.sides)

    def _put(self, key: str, outcome: Outcome) -> None:
        if outcome.ad is not None:
            self.state[key] = outcome.ad
        if not outcome.at_rest:
            customer = key[len(CUSTOMER) :]
            self._tallies[customer] = outcome.usage, outcome.weighted
            if outcome.report is not None:
                self.lines[customer] = outcome.report
            if outcome.edits:
                self.edits[customer] = outcome.edits
        if "@" in key:  # a group's record counts its users' usage again
            self.usage.add(outcome.usage)
            self.weighted.add(outcome.weighted)

    def _take(self, customer: str) -> None:
        """Forget what `_put` noted."""
        if self.state.pop(CUSTOMER + customer, None) is None and customer not in self._tallies:
            return  # new
        self.lines.pop(customer, None)
        self.edits.pop(customer, None)
        usage, weighted = self._tallies.pop(customer) if customer in self._tallies else self._at_rest(customer)
        if "@" in customer:
            self.usage.take(usage)
            self.weighted.take(weighted)

    def _at_rest(self, customer: str) -> tuple[Tally, Tally]:
        ad = self._base.state[CUSTOMER + customer]
        account = self._before.account(customer, ad, self._pool.half_life_s)
        assert account is not None, "what is at rest was in the base"
        usage, weighted = account.usage, account.weighted
        return Tally(base=usage, merged=usage), Tally(base=weighted, merged=weighted)

    def _merge_others(self) -> set[str]:
        """Merge all other records; there are few. Return their keys."""
        base, *states = self._others
        merged, self.other_edits = merge_others(base, states, self._names, self.merged_s)
        keys = set[str]().union(merged, *self._others)
        for key in keys:
            _set(self.state, key, merged.get(key))
        return keys


def _circumstances(context: Context) -> tuple[Moments, list[int], list[int]]:
    """Return what of a context counts for a customer without matches."""
    return context.moments, [side.updated_s for side in context.sides], context.overlap.pool_of


def _set(state: State, key: str, ad: dict[str, str] | None) -> None:
    if ad is None:
        state.pop(key, None)
    else:
        state[key] = ad


def changed(side: Side, changes: Changes) -> Side:
    """Return a side with its records as `changes` has them."""
    state = dict(side.state)
    for key, ad in changes.items():
        _set(state, key, ad)
    return msgspec.structs.replace(side, state=state)
