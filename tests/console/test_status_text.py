"""The status document as a person reads it: how warm the standbys are."""

from gateway.console.status_text import render_status

KINDS = ("slot", "startd", "submitter", "schedd", "master")


def ads(*counts):
    return dict(zip(KINDS, counts, strict=True))


def document(**matchmaker):
    said = {"negotiator_running": True, "negotiator_pid": 7, "collector": "up", "standbys": {}}
    return {
        "cluster": "pool",
        "node": "cm1",
        "roles": ["manager"],
        "elections": {},
        "peers": {},
        "matchmakers": {"managers": said | matchmaker},
        "addresses": {},
        "receiving": {},
        "returns": {},
        "backends": {},
        "relay": None,
        "guard": None,
        "warnings": [],
    }


def line_of(text, beginning):
    return next(line for line in text.splitlines() if line.strip().startswith(beginning)).split()


STANDBY = {"forwarding": True, "primed": True, "missing": 0, "stale": 0, "extra": 0, "lacks": {}, "looked_ms_ago": 4200}


def test_ads_of_leader_and_standbys_stand_below_one_another():
    text = render_status(
        document(
            ads=ads(16, 2, 1, 1, 6),
            looked_ms_ago=4100,
            standbys={
                "cm2": STANDBY | {"ads": ads(16, 2, 1, 1, 7)},
                "cm3": STANDBY
                | {
                    "ads": ads(12, 2, 1, 0, 6),
                    "missing": 5,
                    "extra": 2,
                    "lacks": {"slot": 4, "schedd": 1},
                    "primed": False,
                },
            },
        )
    )
    assert line_of(text, "ads of") == ["ads", "of", *KINDS]
    assert line_of(text, "this manager  ")[2:7] == ["16", "2", "1", "1", "6"]
    assert " ".join(line_of(text, "cm2")) == "cm2 16 2 1 1 7 forwarding, primed, nothing differs (seen 4 s ago)"
    assert " ".join(line_of(text, "cm3")) == (
        "cm3 12 2 1 0 6 forwarding, not primed, 5 missing, 2 extra, lacks slot schedd (seen 4 s ago)"
    )


def test_standby_that_could_not_be_counted_yet_is_shown_all_the_same():
    said = document(ads=ads(16, 2, 1, 1, 6), looked_ms_ago=0, standbys={"cm2": {"forwarding": False, "primed": False}})
    assert " ".join(line_of(render_status(said), "cm2")) == "cm2 ? ? ? ? ? not reached, not primed"


def test_nothing_is_said_of_ads_where_nobody_is_looked_at():
    assert "ads of" not in render_status(document())
    text = render_status(document(standbys={"cm2": {"forwarding": True, "primed": False}}))
    assert "ads of" not in text
    assert " ".join(line_of(text, "cm2")) == "cm2 forwarding, not primed"


def test_a_relay_with_a_process_that_does_not_listen_says_why():
    worker = {"pid": 71, "listening": True, "reason": "", "cpu": 0.1, "descriptors": {"used": 20, "limit": 1_000}}
    relay = {
        "workers": [worker, worker | {"pid": None, "listening": False, "reason": "the relay process died"}],
        "restarts_total": 3,
        "listening": 1,
        "degraded": True,
        "descriptors": {"used": 40, "limit": 2_000, "connections_max": 800},
        "listeners": {},
    }
    text = render_status(document() | {"relay": relay})
    assert "relay (pid 71, restarted 3 times): up to 800 connections" in text
    assert "only 1 of 2 processes listen: the relay process died" in text


def test_a_negotiator_that_is_left_alone_is_not_said_to_be_missing():
    text = render_status(document(negotiator_running=False, negotiator_pid=None, negotiator_left_alone=True))
    assert "negotiator left alone (the file does not say 'negotiator on-elected'), collector up" in text
