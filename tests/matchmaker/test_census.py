"""Which ads a collector holds and lacks: condor_status' lines as it prints them, and the comparison."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.matchmaker.census import Ad, Key, compare, parse
from gateway.matchmaker.condor import ToolFailed

PRINTED = (
    "Machine\tslot1@exec1\tundefined\t<10.77.0.31:9618?sock=startd>\t1795390176\t3\t1795390181\n"
    "StartD\texec1\tundefined\t<10.77.0.31:9618?sock=startd>\t1795390176\t3\t1795390181\n"
    "Submitter\tphysicist@lab\tsubmit1\t<10.77.0.21:9618?sock=schedd>\t1795390176\t7\t1795390181\n"
    "Submitter\tphysicist@lab\tsubmit2\t<10.77.0.22:9618?sock=schedd>\t1795390176\t8\t1795390181\n"
    "Scheduler\tsubmit1\tundefined\t<10.77.0.21:9618?sock=schedd>\tundefined\tundefined\t1795390181\n"
)


def test_ads_are_read_as_condor_status_prints_them():
    found = parse(PRINTED)
    assert found[Key("slot", "slot1@exec1")] == Ad("<10.77.0.31:9618?sock=startd>", 1795390176, 3, 1795390181)
    assert found[Key("schedd", "submit1")].sequence == 0


def test_user_with_jobs_in_two_schedds_has_two_ads():
    assert {key.schedd for key in parse(PRINTED) if key.kind == "submitter"} == {"submit1", "submit2"}


@pytest.mark.parametrize("line", ["Machine\tslot1\n", "Negotiator\ta\tb\tc\t1\t2\t3\n", "Error: communication error\n"])
def test_line_of_another_shape_is_refused(line):
    with pytest.raises(ToolFailed, match="condor_status"):
        parse(line)


def test_restarted_daemon_is_newer_although_it_counts_from_one_again():
    assert Ad("a", 200, 1, 0).is_newer(Ad("a", 100, 50, 0))


def test_what_a_standby_lacks_is_named_missing_or_stale():
    leader = {Key("slot", name): Ad("a", 100, 5, 0) for name in ("same", "older", "gone", "newer")}
    standby = {
        Key("slot", "same"): Ad("a", 100, 5, 0),
        Key("slot", "older"): Ad("a", 100, 4, 0),
        Key("slot", "newer"): Ad("a", 100, 6, 0),
        Key("slot", "withdrawn"): Ad("a", 100, 1, 0),
    }
    found = compare(leader, standby)
    assert found.missing == {Key("slot", "gone")}
    assert found.stale == {Key("slot", "older")}
    assert found.extra == {Key("slot", "withdrawn")}
    assert found.counts() == {"slot": 2}
    assert not found.complete


KEYS = st.builds(Key, st.sampled_from(["slot", "schedd"]), st.sampled_from("abcdef"))
ADS = st.builds(Ad, st.just("a"), st.integers(0, 3), st.integers(0, 3), st.just(0))
CENSUS = st.dictionaries(KEYS, ADS)


@given(CENSUS, CENSUS)
def test_collector_that_gets_what_it_lacks_is_complete(leader, standby):
    lacking = compare(leader, standby).lacking
    assert compare(leader, standby | {key: leader[key] for key in lacking}).complete


@given(CENSUS)
def test_collector_lacks_nothing_of_itself(census):
    found = compare(census, census)
    assert found.complete
    assert not found.extra
