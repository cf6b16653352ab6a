"""Others: records of tables that are not known here, and what the Accountant says of itself: merged by who changed.

Rule 5 of `gateway.core.reconcile`; the time of the last update is the merge's own.
"""

from collections.abc import Sequence

from gateway.core.reconcile.edits import edit_of, who_changed
from gateway.core.reconcile.report import Edit
from gateway.core.reconcile.sides import ACCOUNTANT, CUSTOMER, LAST_UPDATE, RESOURCE
from gateway.wire.accountant import State


def others_of(state: State) -> State:
    """Return the records that are neither a customer's nor a match's."""
    return {key: ad for key, ad in state.items() if not key.startswith((CUSTOMER, RESOURCE))}


def merge_others(base: State, states: Sequence[State], names: Sequence[str], merged_s: int) -> tuple[State, list[Edit]]:
    """Merge such records; also return who changed what of them. `states`, `names`: by side, best first."""
    everyone = range(len(states))
    merged: State = {}
    edits = []
    for key in sorted(set[str]().union(base, *states)):
        before, ads = base.get(key), [state.get(key) for state in states]
        there = who_changed(before is not None, [ad is not None for ad in ads], everyone)
        if before is not None and there.winner is not None and all(ad in (None, before) for ad in ads):
            texts = [None if ad is None else "present" for ad in ads]
            edits.append(edit_of(key, "", "present", texts, there, names))
            continue  # deleted, and changed by nobody else
        merged[key] = {}
        present = [number for number in everyone if ads[number] is not None]
        for name in sorted(set[str]().union(before or {}, *(ad or {} for ad in ads))):
            if (key, name) == (ACCOUNTANT, LAST_UPDATE):
                continue
            old, values = (before or {}).get(name), [(ad or {}).get(name) for ad in ads]
            choice = who_changed(old, values, present)
            kept = old if choice.winner is None else values[choice.winner]
            if kept is not None:
                merged[key][name] = kept
            if choice.winner is not None and (choice.conflict or before is not None) and name != "MyType":
                edits.append(edit_of(key, name, old, values, choice, names))
    merged[ACCOUNTANT] = {**merged.get(ACCOUNTANT, {}), LAST_UPDATE: str(merged_s)}
    return merged, edits
