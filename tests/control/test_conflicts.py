"""Conflicts: when a holder with a lease defends its address, and what it remembers of who claims it."""

from gateway.control.conflicts import DEFEND_INTERVAL_MS, Conflicts

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def test_the_first_claim_is_defended_at_once_and_a_flood_once_an_interval() -> None:
    conflicts = Conflicts()
    defended = [conflicts.claimed(A, now_ms) for now_ms in range(5_000, 5_000 + 3 * DEFEND_INTERVAL_MS, 10)]
    assert defended[0]
    assert defended.count(True) == 3
    assert conflicts.claims_total == len(defended)


def test_a_defence_for_ever_is_never_given_up() -> None:
    conflicts = Conflicts()
    assert all(conflicts.claimed(A, now_ms) for now_ms in range(0, 3_600_000, DEFEND_INTERVAL_MS))


def test_one_defence_serves_against_all_claimants() -> None:
    conflicts = Conflicts()
    assert conflicts.claimed(A, 1_000)
    assert not conflicts.claimed(B, 1_500)
    assert conflicts.status(2_000)["claimed_by"] == {A: {"for_ms": 1_000}, B: {"for_ms": 500}}


def test_a_claimant_that_lets_go_is_claimant_no_more_and_counts_still() -> None:
    conflicts = Conflicts()
    conflicts.claimed(A, 1_000)
    conflicts.claimed(A, 9_000)
    assert conflicts.status(9_000)["claimed_by"] == {A: {"for_ms": 8_000}}
    conflicts.ended(A)
    conflicts.ended(B)
    assert conflicts.status(9_000) == {"conflicts_total": 2, "defences_total": 2, "claimed_by": {}}


def test_claims_to_an_address_that_was_given_up_are_forgotten() -> None:
    conflicts = Conflicts()
    conflicts.claimed(A, 1_000)
    conflicts.forget()
    assert conflicts.claimants == {}
