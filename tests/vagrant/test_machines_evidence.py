"""What a scenario shows, from frames, answers and status documents."""

from gateway.lab.machines import evidence
from gateway.lab.machines.evidence import ADDRESS, MATCHMAKER, Check
from gateway.lab.machines.records import Outcome
from gateway.lab.machines.table import failures, table
from gateway.lab.machines.watch import Frame, Reply, frames_of, replies_of

MACS = {"02::1": "gw1", "02::2": "gw2"}


def document(leader, *, leads=False, kind=ADDRESS, negotiator=False):
    election = {"kind": kind, "leader": leader, "lease_left_ms": 200 if leads else None}
    return {"elections": {"one": election}, "matchmakers": {"managers": {"negotiator_running": negotiator}}}


def frames(*times, node="gw1", kind="arp"):
    return [Frame(node, kind, at) for at in times]


def test_one_leader_is_one_that_every_node_names():
    said = {"gw1": document("gw1", leads=True), "gw2": document("gw1")}
    assert evidence.one_leader(said, ADDRESS, "one holder") == Check(name="one holder", good=True, text="gw1")


def test_two_leaders_are_not_one():
    said = {"gw1": document("gw1", leads=True), "gw2": document("gw2", leads=True)}
    assert not evidence.one_leader(said, ADDRESS, "one holder").good


def test_leader_of_whom_one_node_does_not_know_is_not_agreed_on():
    assert not evidence.one_leader({"gw1": document("gw1", leads=True), "gw2": document(None)}, ADDRESS, "x").good
    assert not evidence.one_leader({"gw1": document("gw1", leads=True), "gw2": None}, ADDRESS, "x").good


def test_leader_whose_lease_is_over_does_not_lead():
    assert not evidence.one_leader({"gw1": document("gw1")}, ADDRESS, "x").good


def test_negotiator_of_another_than_the_elected_manager_is_found():
    elected = document("cm1", leads=True, kind=MATCHMAKER, negotiator=True)
    other = document("cm1", kind=MATCHMAKER, negotiator=True)
    assert evidence.one_negotiator({"cm1": elected, "cm2": document("cm1", kind=MATCHMAKER)}).good
    assert not evidence.one_negotiator({"cm1": elected, "cm2": other}).good


def test_job_that_ran_too_late_or_never_fails():
    assert evidence.flow(14.9, 15).good
    assert not evidence.flow(15.1, 15).good
    assert not evidence.flow(None, 15).good


def test_silent_queue_is_not_a_queue_without_losses():
    assert not evidence.lost(None, 10).good
    assert not evidence.lost({(3, 1)}, 10).good
    assert evidence.lost(set(), 10).good
    assert not evidence.lost(set(), 0).good, "nothing was submitted"


def test_capture_that_never_heard_the_holder_proves_no_silence():
    assert evidence.heard(frames(1.0, 2.0), "gw1", 3.0).good
    assert not evidence.heard(frames(3.1), "gw1", 3.0).good
    assert not evidence.heard(frames(1.0, node="gw2"), "gw1", 3.0).good


def test_address_is_answered_by_the_holder_alone():
    own = [Reply("02::1", float(at)) for at in range(6)]
    assert evidence.answered_by(own, MACS, "gw1").good
    assert not evidence.answered_by(own, MACS, "gw2").good
    assert not evidence.answered_by([*own, Reply("02::2", 9.0)], MACS, "gw1").good
    assert not evidence.answered_by([], MACS, "gw1").good


def test_one_frame_of_a_suspended_owner_is_one_too_many():
    assert evidence.silent(frames(1.0, 9.9), "gw1", 10.0, 16.0, "x").good
    found = evidence.silent(frames(9.9, 10.5), "gw1", 10.0, 16.0, "x")
    assert not found.good
    assert "1 ARP and 0 IP frames, the last after 0.50 s" in found.text


def test_old_holder_is_silent_from_the_first_announcement_of_another():
    before = frames(1.0, 2.0)
    after = frames(3.0, node="gw2")
    assert evidence.left_it([*before, *after], "gw1", 0.0, 9.0).good
    assert not evidence.left_it([*before, *after, *frames(3.1, kind="ip")], "gw1", 0.0, 9.0).good
    assert not evidence.left_it(before, "gw1", 0.0, 9.0).good  # nobody took over


def test_side_that_does_not_answer_is_not_known_to_have_stopped():
    assert evidence.nobody_leads({"gw1": document("gw1"), "gw2": document("gw2", leads=True)}, ["gw1"], "x").good
    assert not evidence.nobody_leads({"gw1": document("gw1", leads=True)}, ["gw1"], "x").good
    assert not evidence.nobody_leads({"gw1": None}, ["gw1"], "x").good


def test_what_was_captured_is_read_but_for_lines_that_are_being_written():
    assert frames_of("tap1 arp 1.5\ntap9 ip 2.0\n", {"tap1": "gw1"}) == [Frame("gw1", "arp", 1.5)]
    assert replies_of("02::1 1.5\n02::2 2.") == [Reply("02::1", 1.5)]


def test_table_names_what_failed():
    good = Check(name="no job lost", good=True, text="0 of 9")
    bad = Check(name="one holder", good=False, text="nobody")
    outcomes = [
        Outcome(scenario="manager-cut", victim="cm1", flow_s=1.0, checks=(good,)),
        Outcome(scenario="switchover", victim="cm2", flow_s=1.0, checks=(good, bad)),
        Outcome(scenario="rolling-reboot", refused="not run"),
    ]
    assert [one.good for one in outcomes] == [True, False, False]
    assert failures(outcomes) == ["switchover: one holder: nobody", "rolling-reboot: given up: not run"]
    assert table(outcomes).count("FAILED") == 2


def test_suspended_owner_may_answer_what_waited_and_must_give_up_then():
    assert evidence.soon_silent(frames(10.0, 10.06), "gw1", 10.0, 16.0, 1.0, "x").good
    assert evidence.soon_silent([], "gw1", 10.0, 16.0, 1.0, "x").good
    found = evidence.soon_silent(frames(10.06, 11.5), "gw1", 10.0, 16.0, 1.0, "x")
    assert not found.good
    assert "2 frames, the last after 1.50 s" in found.text
