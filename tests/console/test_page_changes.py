"""Changes of leaders as all nodes together know them."""

from page_documents import change, saved

from gateway.console.page.changes import merged

WITNESSED = change(phases={"lost_ms": 0, "noticed_ms": 210, "elected_ms": 290}, gap_ms=None)


def test_change_is_told_once_by_the_new_leader_that_knows_most_of_it():
    told = {"gw2": {"changes": [change()]}, "cm1": {"changes": [WITNESSED]}}
    assert merged([WITNESSED], told) == [change()]
    assert merged([change()], {"cm1": {"changes": [WITNESSED]}}) == [change()]


def test_node_that_was_away_learns_what_it_has_not_seen():
    unseen = change(cause="unseen", phases={"elected_ms": 0}, gap_ms=None)
    assert merged([unseen], {"cm1": {"changes": [WITNESSED]}}) == [WITNESSED]
    assert merged([unseen], {}) == [unseen]


def test_same_term_of_another_leader_is_another_change():
    """As with `on-partition serve`: each side has its own."""
    other = change(to="gw3", at=change()["at"] + 1)
    assert merged([change()], {"gw3": {"changes": [other]}}) == [change(), other]


def test_nodes_that_do_not_answer_or_answer_nonsense_take_nothing_away():
    told = {"cm1": {"error": "'cm1' does not answer"}, "cm2": {"changes": [{"election": "pool-vip"}, {}]},
            "cm3": {"changes": None}}  # fmt: skip
    assert merged([change()], told) == [change()]


def test_pool_has_seen_each_failover_once():
    found = merged(saved("history")["changes"], saved("histories"))
    keys = [(one["election"], one["term"]) for one in found]
    assert len(keys) == len(set(keys))
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    assert all(one["gap_ms"] for one in found if one["cause"] != "first")
