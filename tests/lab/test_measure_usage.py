"""What users are to be charged, replayed from logs; the excerpts in data/ were written by HTCondor 23.9.6."""

import math
import re
from pathlib import Path

import pytest

from gateway.lab.measure import logs, usage
from gateway.lab.measure.audit import Cut, Witnesses
from gateway.lab.measure.usage import Charge, Cycle, Slot, UserMatch
from gateway.lab.measure.userprio import Customer, Prio

DATA = Path(__file__).parent / "data"
START_LOG = (DATA / "StartLog").read_text()
NEGOTIATOR_LOG = (DATA / "NegotiatorLog").read_text()
SLOT, USER = "slot1@exec1", "ann@pool"


SENT = "Trying to update collector <10.77.0.100:9618>"
# Half a minute of one startd's four slots, and of the negotiator: its matches of them, and what its Accountant said
# (D_ACCOUNTANT) of the records that it made and removed. Nothing was broken.
ACCOUNTING = DATA / "accounting"
_RECORD = re.compile(r"\(ACCOUNTANT\) (Added|Removed) match between customer (\S+) and resource (\S+?@\S+?)@<")


def lines(*changes: tuple[float, str]) -> str:
    return "".join(f"17953{at:09.3f} {'' if text == SENT else 'slot1: '}{text}\n" for at, text in changes)


def cycle(at: float) -> Cycle:
    return Cycle(EPOCH + at, EPOCH + at + 0.005, EPOCH + at + 0.01)


# Claimed at 10.2 by USER and told at 11.2, released at 15.6 and told at 16.62.
HELD = lines(
    (10.2, f"Remote owner is {USER}"),
    (10.2, "Changing state: Unclaimed -> Claimed"),
    (11.2, SENT),
    (15.5, "Changing state and activity: Claimed/Busy -> Preempting/Vacating"),
    (15.6, "Changing state and activity: Preempting/Vacating -> Owner/Idle"),
    (15.6, "Changing state: Owner -> Unclaimed"),
    (16.62, SENT),
)
EPOCH = 1795300000.0


def held() -> Slot:
    return usage.slots(HELD, "exec1")[SLOT]


def charged(given: list[UserMatch], cycles: list[float], slot: Slot | None = None) -> dict[str, float]:
    times = [cycle(at) for at in cycles]
    moved = [UserMatch(EPOCH + one.at, one.slot, one.user) for one in given]
    return usage.charged_s(usage.charges(slot or held(), moved, times, EPOCH + 30), EPOCH, EPOCH + 30)


def test_claim_lasts_until_the_slot_is_released_vacating_included():
    (claim,) = held().claims
    assert (claim.user, claim.since, claim.until) == (USER, EPOCH + 10.2, EPOCH + 15.6)


def test_claims_of_a_real_log_are_those_of_its_owner():
    found = usage.slots(START_LOG, "trial1")
    assert set(found) == {"slot1@trial1", "slot2@trial1"}
    first = found["slot1@trial1"].claims[0]
    assert first.user == "physicist@trial1"
    assert first.until is not None
    assert first.until - first.since == pytest.approx(4.111, abs=0.001)


def test_matches_of_a_real_log_name_user_and_slot():
    found = usage.matches(NEGOTIATOR_LOG)
    assert (found[0].user, found[0].slot) == ("physicist@trial1", "slot1@trial1")


def test_slot_is_charged_from_its_match_to_the_cycle_that_the_update_of_its_release_has_reached():
    # The cycle of 16.1 does not know of the release, that of 17.1 does.
    assert charged([UserMatch(10.1, SLOT, USER)], [10.05, 11.5, 12.1, 16.1, 17.1]) == {USER: 7.0}


def test_claim_whose_match_nobody_wrote_down_is_charged_from_the_first_cycle_that_sees_it():
    assert charged([], [12.1, 13.1, 17.1]) == {USER: 5.0}


def test_second_match_of_a_slot_is_charged_to_the_other_user_until_the_next_cycle():
    given = [UserMatch(10.1, SLOT, USER), UserMatch(11.15, SLOT, "bob@pool")]
    assert charged(given, [10.05, 11.1, 12.1, 13.1, 17.1]) == {USER: 6.0, "bob@pool": 1.0}


def test_claim_that_goes_on_is_charged_up_to_now():
    log = lines((10.2, f"Remote owner is {USER}"), (10.2, "Changing state: Unclaimed -> Claimed"), (11.2, SENT))
    assert charged([UserMatch(10.1, SLOT, USER)], [12.1], usage.slots(log, "exec1")[SLOT]) == {USER: 20.0}


def test_match_is_taken_away_by_a_cycle_that_asks_before_its_claim_was_told():
    cycles = [10.05, 11.1, 12.1, 17.1]
    assert charged([UserMatch(10.1, SLOT, USER)], cycles) == {USER: 6.0}  # 10 to 11, 12 to 17
    told = usage.slots(HELD.replace("795300011.200", "795300010.900"), "exec1")[SLOT]
    assert charged([UserMatch(10.1, SLOT, USER)], cycles, told) == {USER: 7.0}


def test_slot_that_is_claimed_again_before_its_release_was_told_was_never_free_to_the_collector():
    again = lines(
        (15.9, "Remote owner is bob@pool"),
        (15.9, "Changing state: Unclaimed -> Claimed"),
        (16.62, SENT),
    )
    slot = usage.slots(HELD.removesuffix(lines((16.62, SENT))) + again, "exec1")[SLOT]
    assert slot.shown == ((EPOCH + 11.2, USER), (EPOCH + 16.62, "bob@pool"))


def test_cycle_that_never_came_to_its_accounting_charges_nothing():
    begun = (10.0, "---------- Started Negotiation Cycle ----------")
    asked = (10.1, "  Getting Scheduler, Submitter and Machine ads ...")
    found = usage.cycles(lines(begun, asked, (12.0, begun[1]), (12.1, asked[1]), (12.2, "Performing accounting ...")))
    assert found == [Cycle(EPOCH + 12.0, EPOCH + 12.1, EPOCH + 12.2)]


def recorded(negotiator_log: str) -> dict[str, list[Charge]]:
    """What the Accountant itself kept of each slot: from making a record to removing it."""
    kept: dict[str, list[Charge]] = {}
    begun: dict[str, int] = {}
    for line in negotiator_log.splitlines():
        if (found := _RECORD.search(line)) and (at := logs.stamp(line)) is not None:
            if found[1] == "Added":
                begun[found[3]] = math.floor(at)
            elif found[3] in begun:
                kept.setdefault(found[3], []).append(Charge(found[2], begun.pop(found[3]), math.floor(at)))
    return kept


def test_replay_of_a_real_negotiator_has_its_accountants_own_records_second_by_second():
    log = (ACCOUNTING / "NegotiatorLog").read_text()
    found = usage.slots((ACCOUNTING / "StartLog").read_text(), "exec1.lab.internal")
    cycles, kept = usage.cycles(log), recorded(log)
    settled, end = cycles[12].counted, cycles[-1].counted  # no match is older than the excerpt by then
    assert set(found) == set(kept)
    for name, slot in found.items():
        given = [match for match in usage.matches(log) if match.slot == name]
        replayed = usage.charges(slot, given, cycles, end + 1)
        ended = [
            charge for charge in replayed if settled < charge.until < math.floor(end) and charge.since < charge.until
        ]
        assert len(ended) >= 2
        assert ended == [
            record for record in kept[name] if settled < record.until < math.floor(end) and record.since < record.until
        ]


def prio(at: float, seconds: float) -> Prio:
    return Prio(int(EPOCH + at), {USER: Customer(usage_s=seconds)})


def witnesses(**change) -> Witnesses:
    given = {
        "slots": {"exec1": {SLOT: held()}},
        "matches": {"cm1": [UserMatch(EPOCH + 10.1, SLOT, USER)]},
        "cycles": {"cm1": [cycle(at) for at in (10.05, 12.1, 13.1, 14.1)], "cm2": [cycle(17.1), cycle(18.1)]},
    }
    return Witnesses(**given | change)


def test_charge_beyond_or_below_what_should_be_is_the_error():
    for seconds, error in ((107.0, 0.0), (111.0, 4.0), (100.0, -7.0)):
        found = witnesses().compare(prio(5, 100.0), prio(25, seconds))
        assert found.users[USER].error_s == pytest.approx(error)
        assert found.users[USER].claimed_s == pytest.approx(5.4)


def test_cycle_of_a_manager_that_was_dead_does_not_count():
    cycles = {"cm1": [cycle(at) for at in (10.05, 17.1)], "cm2": [cycle(20.1)]}
    found = witnesses(cycles=cycles, ended={"cm1": EPOCH + 16.0}).compare(prio(5, 0.0), prio(25, 10.0))
    assert found.error_s == 0.0


def test_release_on_the_other_side_of_a_cut_is_not_seen_until_the_heal():
    cycles = {"cm1": [cycle(at) for at in (10.05, 12.1, 16.9)], "cm2": [cycle(17.2), cycle(20.1)]}
    cut = Cut(EPOCH + 11, EPOCH + 20, (frozenset({"cm1", "exec2"}), frozenset({"cm2", "exec1"})))
    found = witnesses(cycles=cycles, cut=cut).compare(prio(5, 0.0), prio(25, 7.0))
    assert found.error_s == 0.0, "cm2's cycle at 17.2 sees the release; cm1's at 16.9 could not"


def test_bound_is_the_usual_cycle_of_every_slot():
    assert witnesses().compare(prio(5, 0.0), prio(25, 7.0)).bound_s == pytest.approx(1.0, abs=0.1)
