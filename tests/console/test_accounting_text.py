"""The accounting as a person reads it in the status."""

from gateway.console.accounting_text import render_accounting

STANDBY = {"connected": True, "lag_ms": 0, "lag_records": 0}


def said(**changes):
    document = {
        "term": 7,
        "generation": 2,
        "records": 412,
        "standbys": {},
        "missing_at_takeover": None,
        "pending": [],
        "waiting": [],
        "merges_total": 0,
        "last_merge": None,
        "unmerged": [],
    }
    return "\n".join(render_accounting(document | changes))


def test_a_standby_that_has_every_record_is_said_to() -> None:
    assert "cm2            has every record" in said(standbys={"cm2": STANDBY})


def test_a_standby_that_is_behind_shows_by_how_much() -> None:
    assert "12 records, 1400 ms behind: behind for long" in said(
        standbys={"cm2": STANDBY | {"lag_ms": 1400, "lag_records": 12}}
    )


def test_a_standby_that_is_not_connected_is_not_said_to_have_anything() -> None:
    text = said(standbys={"cm2": STANDBY | {"connected": False}})
    assert "gets nothing" in text
    assert "every record" not in text


def test_what_may_be_missing_after_a_takeover_is_said() -> None:
    text = said(missing_at_takeover={"records_min": 9, "held": "6.1.3", "newest": "6.1.12"})
    assert "at least 9 records are missing" in text


def test_a_history_that_could_not_be_merged_names_its_reason_and_its_files() -> None:
    one = {"origin": "cm3", "head": "5.2.90", "reason": "no-base", "archive": "merge-1"}
    assert "NOT MERGED: cm3 5.2.90 (no-base): archive/merge-1" in said(unmerged=[one])


def test_the_last_merge_shows_what_it_brought_and_what_it_cost() -> None:
    last = {
        "origin": "cm1",
        "edits": 2,
        "usage_added": 120.4,
        "conflicts": 1,
        "swapped": True,
        "negotiator_gap_ms": 310,
        "archive": "merge-2",
    }
    text = said(merges_total=3, last_merge=last)
    assert "3 merged, last that of cm1: 2 edits, 120 slot-seconds, 1 conflicts, no negotiator for 310 ms" in text


def test_where_accounting_is_not_replicated_nothing_is_said_of_it() -> None:
    assert render_accounting({}) == []
