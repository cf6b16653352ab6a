"""Within their small scope no story breaks a promise; a broken rule is found, with the shortest story that shows it."""

from __future__ import annotations

import pytest

from gateway.core.node import SavedVote
from tests.sim import mutants
from tests.sim.exhaustive import NAMES, NUMBERS, STORIES, E, Explored, Explorer, explore, new_node
from tests.sim.fingerprint import KEPT, LEFT_OUT
from tests.sim.order_mutants import ORDER_MUTANTS

STATES_MAX = 150_000  # for a broken core: what it does wrong shows early
FOUND = {
    "acknowledges_without_a_promise": "a leader, one crash, a promise",
    "forgets_whom_it_promised": "a leader, one crash, a promise",
    "goes_on_with_its_round_when_paused": "two candidates, a pause",
    "half_is_a_majority": "three candidates, one crash",
    "lease_never_ends_by_itself": "a leader, one crash, a promise",
    "margin_is_negative": "a leader, one crash, a promise",
    "names_its_successor_before_it_has_stopped": "a leader hands over",
    "resigns_before_the_stop_is_confirmed": "a leader hands over",
    "restart_forgets_votes": "a leader, one crash, a promise",
    "stands_while_paused": "two candidates, a pause",
    "successor_asks_before_it_has_written": "a leader hands over",
    "vote_sent_before_it_is_written": "three candidates, one crash",
    "votes_twice_in_a_term": "three candidates, one crash",
    "votes_while_paused": "two candidates, a pause",
    "votes_while_serving": "a leader, one crash, a promise",
}
assert "votes_while_paused" in ORDER_MUTANTS  # which are registered by the import


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
def test_no_order_of_events_breaks_a_promise(story: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = explore(story)
    with capsys.disabled():
        print(f"\n{story}: {done.states} states, {done.transitions} steps", end="")
    assert not done.violation, "\n".join([done.violation, *done.story])
    assert done.states > 500, "a story in which next to nothing can happen shows nothing"


def broken(mutant: str) -> Explored:
    begin, scope = STORIES[FOUND[mutant]]
    NUMBERS.clear()
    with mutants.applied(mutant):
        return Explorer(begin(scope), scope).explore(STATES_MAX)


@pytest.mark.parametrize("mutant", FOUND)
def test_a_broken_rule_is_found_with_its_story(mutant: str) -> None:
    done = broken(mutant)
    assert done.violation
    assert 2 <= len(done.story) <= 20, "breadth first, so that the story is short"


def test_every_field_of_a_node_is_in_its_fingerprint_or_left_out_on_purpose() -> None:
    node = new_node(0, NAMES, SavedVote(), 0)
    election = node.elections[E]
    shared = (node.reach, node.slowness, node.book)
    parts = (node, election, *shared, election.lease, election.promise, election.ranking)
    for part in parts:
        name = type(part).__name__
        assert set(vars(part)) == KEPT[name] | LEFT_OUT[name], f"a field of {name} is new, or gone"
