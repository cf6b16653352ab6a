"""Orders and their answers as people read them."""

from typing import Any

from gateway.console.orders_text import answer_text, order_lines, when

ORDERS: dict[str, Any] = {
    "version": 3,
    "paused": "new switch",
    "drained": ["cm1"],
    "by": "gw2",
    "at": 1_800_000_000,
    "paused_by": "gw1",
    "paused_at": 1_799_990_000,
    "drains": [{"node": "cm1", "by": "gw2", "at": 1_800_000_000}],
    "confirmed": ["gw1"],
    "missing": ["cm2", "w1"],
    "held_up": ["nobody leads 'pool': the cluster is paused, and nobody takes over"],
}
NONE = ORDERS | {"paused": None, "drained": [], "paused_by": None, "paused_at": None, "drains": [], "held_up": []}


def test_what_is_in_force_says_who_since_when_and_why() -> None:
    assert order_lines(ORDERS) == [
        f"PAUSED at gw1 since {when(1_799_990_000)}: new switch (nobody takes over until 'resume')",
        f"cm1 is drained (at gw2, since {when(1_800_000_000)}): it leads nothing until 'undrain'",
        "  nobody leads 'pool': the cluster is paused, and nobody takes over",
        "not known yet at cm2, w1: told as soon as they are heard",
    ]


def test_without_orders_there_is_nothing_to_say() -> None:
    assert order_lines(None) == []
    assert order_lines(NONE) == [], "whoever has not heard of the end of orders is told it without a word here"


def test_an_answer_says_what_changed_who_has_it_and_what_to_know() -> None:
    answer = ORDERS | {"changed": True, "notes": ["gw1 leads 'vip'"]}
    assert answer_text(answer, "done", "already").splitlines() == [
        "done",
        "on this node's disk, and at 1 of 3 peers",
        "not known yet at cm2, w1: told as soon as they are heard",
        "note: gw1 leads 'vip'",
    ]
    assert answer_text(answer | {"changed": False}, "done", "already").splitlines()[0] == "already"
