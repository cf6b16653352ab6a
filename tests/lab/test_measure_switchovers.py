"""What a measured handover says: the gap in the negotiators' logs, and the table."""

import msgspec

from gateway.lab.measure.switchovers import SwitchResult, negotiators_gap_ms, table

OLD = """\
11/22/26 23:04:22.003 ---------- Finished Negotiation Cycle ----------
11/22/26 23:04:22.500 Got SIGQUIT.  Performing fast shutdown.
11/22/26 23:04:22.510 **** condor_negotiator (condor_NEGOTIATOR) pid 711 EXITING WITH STATUS 0
"""
NEW = """\
11/22/26 23:04:22.600 ** condor_negotiator (CONDOR_NEGOTIATOR) STARTING UP
11/22/26 23:04:22.640 ---------- Started Negotiation Cycle ----------
11/22/26 23:04:23.640 ---------- Started Negotiation Cycle ----------
"""
RESULT = SwitchResult(
    what="matchmaker",
    forward="proxy",
    repeat=1,
    from_="cm1",
    to="cm2",
    printed_ms=128,
    seen_ms=130.0,
    waited_ms=0,
    phases={},
    asked={"answered": 400, "closed": 1},
    held={"closed": 20},
    slowest_ms=180,
    jobs_done=20,
    jobs_lost=0,
)


def test_the_gap_is_from_the_old_negotiators_end_to_the_first_cycle_of_the_new_one():
    assert round(negotiators_gap_ms({"cm1": OLD, "cm2": NEW, "cm3": ""}, "cm1", "cm2")) == 130


def test_a_gap_that_the_logs_do_not_show_is_none():
    assert negotiators_gap_ms({"cm1": OLD, "cm2": ""}, "cm1", "cm2") is None
    assert negotiators_gap_ms({"cm2": NEW}, "cm1", "cm2") is None


def test_the_table_shows_the_printed_gap_beside_the_seen_one_and_who_was_refused():
    rows = table([RESULT, msgspec.structs.replace(RESULT, printed_ms=None)]).splitlines()
    assert len(rows) == 4
    assert rows[2] == (
        "| matchmaker | proxy | cm1 -> cm2 | 128 | 130.0 | -2 | 0 | 400 of 401, 1 closed "
        "| 0 of 20, 20 closed | 180 | 0 |"
    )
    assert "| None | 130.0 | - |" in rows[3]
