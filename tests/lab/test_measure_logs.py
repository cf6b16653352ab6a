"""Daemon logs, read for facts. The excerpts in data/ were written by HTCondor 23.9.6."""

from pathlib import Path

import pytest

from gateway.lab.measure import logs
from gateway.lab.measure.logs import Wait

DATA = Path(__file__).parent / "data"
START_LOG = (DATA / "StartLog").read_text()
NEGOTIATOR_LOG = (DATA / "NegotiatorLog").read_text()
SCHED_LOG = (DATA / "SchedLog-collector-died").read_text()

DAY = 1795305600.0  # 2026-11-22 00:00:00 UTC


def at(clock: str) -> float:
    hour, minute, second = clock.split(":")
    return DAY + int(hour) * 3600 + int(minute) * 60 + float(second)


def test_time_of_a_line_is_read_to_the_millisecond():
    assert logs.stamp("11/22/26 23:22:54.590 slot1: ...") == pytest.approx(at("23:22:54.590"))


def test_requests_that_a_daemon_gave_up_reading_are_found_with_their_peer():
    log = (
        "11/22/26 23:22:34.100 slot4: Changing activity: Idle -> Busy\n"
        "11/22/26 23:22:54.590 condor_read(): timeout reading 5 bytes from <10.77.0.21:45557>.\n"
        "11/22/26 23:22:54.590 Can't read ClaimId\n"
    )
    assert logs.reads_given_up(log) == [(pytest.approx(at("23:22:54.590")), "10.77.0.21")]


def test_time_without_a_fraction_and_unix_time_are_read_too():
    assert logs.stamp("11/22/26 23:22:54 (pid:13) ...") == at("23:22:54")
    assert logs.stamp("1795389774.590 slot1: ...") == pytest.approx(at("23:22:54.590"))


def test_line_without_a_time_has_none():
    assert logs.stamp("\tCpus: 1.000000, Memory: 2000") is None


def test_slot_waits_from_unclaimed_to_its_next_claim():
    waits = [wait for wait in logs.slot_waits(logs.slot_changes(START_LOG)) if wait.slot == "slot1"]
    assert waits[0] == Wait("slot1", pytest.approx(at("23:22:54.600")), pytest.approx(at("23:22:56.574")))


def test_first_claim_after_a_start_is_no_wait():
    waits = logs.slot_waits(logs.slot_changes(START_LOG))
    assert all(wait.freed > at("23:22:50.6") for wait in waits)


def test_slot_that_stays_free_waits_without_an_end():
    waits = logs.slot_waits(logs.slot_changes(START_LOG))
    assert [wait.claimed for wait in waits if wait.slot == "slot1"][-1] is None


FAULT = 1000.0


def test_wait_before_counts_only_what_ended_before_the_fault():
    waits = [Wait("a", 950.0, 951.0), Wait("b", 990.0, 993.0), Wait("c", 999.0, 1004.0), Wait("d", 995.0, None)]
    assert logs.mean_wait_before_s(waits, FAULT, span_s=40.0) == pytest.approx(3.0)


def test_wait_after_counts_slots_that_the_fault_found_free_and_those_never_claimed_again():
    waits = [Wait("a", 990.0, 993.0), Wait("b", 999.0, 1003.0), Wait("c", 1010.0, None), Wait("d", 1016.0, 1016.5)]
    assert logs.mean_wait_after_s(waits, FAULT, until=1060.0, span_s=15.0) == pytest.approx((4.0 + 50.0) / 2)


def test_no_slot_became_free_gives_no_figure():
    assert logs.mean_wait_before_s([], FAULT) is None
    assert logs.mean_wait_after_s([], FAULT, until=1060.0) is None


def test_job_start_carries_the_time_of_its_claim():
    starts = [start for start in logs.job_starts(START_LOG) if start[1] == "slot1"]
    assert starts[0] == (pytest.approx(at("23:22:50.525")), "slot1", pytest.approx(at("23:22:50.488")))
    assert starts[1][0] - starts[1][2] == pytest.approx(0.019, abs=0.001)


def test_matches_are_found_with_their_slots():
    found = logs.matches(NEGOTIATOR_LOG)
    assert found[0].at == pytest.approx(at("23:22:50.484"))
    assert (found[0].cluster, found[0].slot) == (1, "slot1@trial1")
    assert {match.slot for match in found[:4]} == {f"slot{number}@trial1" for number in (1, 2, 3, 4)}


def test_start_of_a_negotiator_is_found():
    assert logs.negotiator_starts(NEGOTIATOR_LOG) == [pytest.approx(at("23:14:23.491"))]


def test_update_that_did_not_leave_is_one_rejection():
    found = logs.client_rejections(SCHED_LOG)
    assert [(one.kind, one.peer) for one in found] == [("failed", "127.0.0.1")]


def test_update_towards_a_dead_host_is_none_where_others_are_listed():
    assert logs.client_rejections(SCHED_LOG, frozenset({"127.0.0.1"})) == []


# The lines of HTCondor 23.9.6 for a session that the server does not know (condor_secman.cpp, dc_collector.cpp).
REJECTED = """\
11/22/26 23:30:01.000 SECMAN: Server rejected our session id
11/22/26 23:30:01.000 SECMAN: Invalidating negotiated session rejected by peer
11/22/26 23:30:01.001 ERROR: SECMAN:2004:Server rejected our session id
11/22/26 23:30:01.001 Failed to start non-blocking update to <10.77.0.100:9618>.
11/22/26 23:30:09.000 SECMAN: Server rejected our session id
"""


def test_rejected_session_and_the_update_that_it_carried_count_once():
    found = logs.client_rejections(REJECTED)
    assert [(one.kind, one.at) for one in found] == [("session", at("23:30:01.000")), ("session", at("23:30:09.000"))]


def test_rejected_command_that_is_no_update_does_not_count():
    # A schedd of 23.9.6 whose negotiator has been started anew.
    now = "11/23/26 00:00:37.404 (pid:7)"
    text = (
        f"{now} SECMAN: Server rejected our session id\n"
        f"{now} SECMAN: Invalidating negotiated session rejected by peer\n"
        f"{now} Failed to send RESCHEDULE to negotiator cm1.lab.internal: SECMAN:2004:Server rejected our session id\n"
    )
    assert logs.client_rejections(text) == []


def test_datagram_under_an_unknown_session_is_counted_by_the_server():
    line = (
        "11/22/26 23:30:01.500 DC_AUTHENTICATE: session cm1:43:1795:7 NOT FOUND; this session was requested by "
        "<10.77.0.31:40001> with return address (none)\n"
    )
    assert [(one.kind, one.peer) for one in logs.server_rejections(line)] == [("dropped", "10.77.0.31")]


def test_torn_json_line_of_a_killed_node_is_skipped():
    text = '{"at": 5.5, "event": "election.won", "election": "managers", "term": 3}\n{"at": 6.0, "event": "election.w'
    assert [event["term"] for event in logs.json_events(text, "election.won")] == [3]
