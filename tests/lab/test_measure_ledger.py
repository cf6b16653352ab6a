"""What became of every job."""

from pathlib import Path

from gateway.lab.measure.ledger import Ledger, Status
from gateway.lab.measure.logs import iso_time

EVENTS = (Path(__file__).parent / "data" / "job-events.log").read_text()
HEADS = "{number:03} ({cluster:03}.{proc:03}.000) 2026-11-22 23:30:{second:02} Something happened.\n...\n"


def event(number: int, proc: int, second: int = 0) -> str:
    return HEADS.format(number=number, cluster=7, proc=proc, second=second)


def ledger(*events: str) -> Ledger:
    found = Ledger()
    found.read("".join(events))
    return found


def test_every_job_of_a_real_log_is_submitted_and_completed():
    found = ledger(EVENTS)
    assert (found.submitted, found.count(Status.COMPLETED), found.restarted()) == (10, 10, set())


def test_log_read_in_pieces_says_the_same():
    found = Ledger()
    for start in range(0, len(EVENTS), 7):
        found.read(EVENTS[start : start + 7])
    assert found.jobs == ledger(EVENTS).jobs
    assert found.completed_at == ledger(EVENTS).completed_at


def test_rate_counts_what_completed_in_the_span():
    since = iso_time("2026-11-22 23:22:50")
    assert ledger(EVENTS).per_minute(since, since + 10) == 4 * 6  # at :54, :55, :56, :57
    assert ledger(EVENTS).per_minute(since + 10, since + 20) == 4 * 6  # at :01, :03, :04, :05


def test_fraction_of_a_second_is_kept():
    text = "005 (007.000.000) 2026-11-22 23:30:00.250 Job terminated.\n...\n"
    assert ledger(text).completed_at == [iso_time("2026-11-22 23:30:00") + 0.25]


def test_job_that_vanished_from_the_queue_without_an_end_is_lost():
    assert ledger(event(0, 0), event(1, 0), event(0, 1)).lost({(7, 1)}) == {(7, 0)}


def test_completed_waiting_and_running_jobs_are_not_lost():
    found = ledger(event(0, 0), event(1, 0), event(5, 0), event(0, 1), event(1, 1), event(0, 2))
    assert found.lost({(7, 1), (7, 2)}) == set()


def test_held_and_removed_jobs_are_lost():
    found = ledger(event(0, 0), event(12, 0), event(0, 1), event(9, 1))
    assert found.lost({(7, 0)}) == {(7, 0), (7, 1)}


def test_job_that_ran_twice_is_restarted_and_not_lost():
    found = ledger(event(0, 0), event(1, 0), event(4, 0), event(1, 0, 9), event(5, 0, 12))
    assert found.restarted() == {(7, 0)}
    assert found.lost(set()) == set()


def test_evicted_job_is_idle_again():
    assert ledger(event(0, 0), event(1, 0), event(4, 0)).idle == 1
