"""The node's file in HTCondor's configuration: its text in each role, and its way to the disk."""

import os

import pytest

from gateway.config.settings import Endpoint
from gateway.matchmaker import nodefile
from gateway.matchmaker.pool_address import PoolAddress

ADDRESS = PoolAddress(
    virtual=Endpoint("10.77.0.100", 9618),
    file="/run/lock/condor/ad.condor-gateway",
    text="",
)


def settings(text):
    """Return {name: value} of the lines that HTCondor would read."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def test_standby_lists_no_negotiator_and_forwards_nothing():
    assert settings(nodefile.render(negotiator=False, view_hosts=())) == {}


def test_what_is_there_at_boot_lists_no_negotiator_and_includes_what_is_gone_then():
    text = nodefile.render_standing()
    assert settings(text) == {
        "COLLECTOR.SEC_DEFAULT_SESSION_DURATION": str(nodefile.SESSION_S),
        "include ifexist : /run/condor-gateway/role.config": "",
    }


def test_leader_adds_the_negotiator_to_what_the_administrator_listed():
    assert settings(nodefile.render(negotiator=True, view_hosts=()))["DAEMON_LIST"] == "$(DAEMON_LIST) NEGOTIATOR"


def test_leader_lets_no_schedd_authenticate_for_a_reschedule():
    """Both would wait for each other. No daemon on Unix can do NTSSPI; only this level, DAEMON, is closed."""
    said = settings(nodefile.render(negotiator=True, view_hosts=()))
    assert [name for name in said if name.startswith("NEGOTIATOR.")] == ["NEGOTIATOR.SEC_DAEMON_AUTHENTICATION_METHODS"]
    assert said["NEGOTIATOR.SEC_DAEMON_AUTHENTICATION_METHODS"] == "NTSSPI"


def test_leader_forwards_every_ad_with_its_claim_ids_to_every_relay_by_tcp():
    text = nodefile.render(negotiator=True, view_hosts=("127.0.0.1:19002", "127.0.0.1:19003"))
    said = settings(text)
    assert said["CONDOR_VIEW_HOST"] == "$(CONDOR_VIEW_HOST) 127.0.0.1:19002 127.0.0.1:19003"
    assert said["COLLECTOR_FORWARD_CLAIMED_PRIVATE_ADS"] == "True"
    assert said["UPDATE_VIEW_COLLECTOR_WITH_TCP"] == "True"
    types = {name.strip() for name in said["CONDOR_VIEW_CLASSAD_TYPES"].split(",")}
    assert types == {"Machine", "Submitter", "Scheduler", "DaemonMaster", "StartD", "Slot"}


def test_the_negotiators_intervals_are_the_administrators():
    """They are recommended in a comment, and never set."""
    text = nodefile.render_standing() + nodefile.render(negotiator=True, view_hosts=())
    assert "#   NEGOTIATOR_INTERVAL = 5\n" in text
    assert not [name for name in settings(text) if "INTERVAL" in name or "CYCLE" in name]


def test_leader_puts_its_negotiator_alone_behind_the_pools_address():
    said = settings(nodefile.render(negotiator=True, view_hosts=(), address=ADDRESS))
    assert said["NEGOTIATOR.SHARED_PORT_DAEMON_AD_FILE"] == ADDRESS.file
    # Collector, master and shared_port would no longer find themselves.
    assert not [name for name in said if "TCP_FORWARDING_HOST" in name or name.startswith("SHARED_PORT")]


def test_a_standby_says_nothing_of_the_pools_address():
    assert nodefile.render(negotiator=False, view_hosts=(), address=ADDRESS) == nodefile.render(
        negotiator=False, view_hosts=()
    )


def test_a_trap_in_the_place_of_a_new_file_is_not_written_through(tmp_path):
    """HTCondor's own folders are not root's alone: who may write there must not choose what root overwrites."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    os.link(precious, tmp_path / ".target.new")
    nodefile.write(str(tmp_path / "target"), "new")
    assert (precious.read_text(), (tmp_path / "target").read_text()) == ("kept", "new")


def test_a_standby_never_forwards():
    with pytest.raises(AssertionError, match="in circles"):
        nodefile.render(negotiator=False, view_hosts=("127.0.0.1:19002",))


def test_every_setting_has_a_comment_right_above_it():
    text = nodefile.render(negotiator=True, view_hosts=("127.0.0.1:19002",), address=ADDRESS)
    blocks = text.strip().split("\n\n")
    for block in blocks[1:]:
        assert block.startswith("# "), block
        assert block.count("\n") >= 1, block


def test_written_file_replaces_the_old_one_whole(tmp_path):
    target = nodefile.path(str(tmp_path))
    nodefile.write(target, "old = 1\n" * 100)
    nodefile.write(target, "new = 1\n")
    assert (tmp_path / "zz-condor-gateway.config").read_text() == "new = 1\n"
    assert os.listdir(tmp_path) == ["zz-condor-gateway.config"]
    assert (tmp_path / "zz-condor-gateway.config").stat().st_mode & 0o777 == 0o644


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = nodefile.path(str(tmp_path))
    nodefile.write(target, "old = 1\n")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        nodefile.write(target, "new = 1\n")
    assert os.listdir(tmp_path) == ["zz-condor-gateway.config"]
    assert (tmp_path / "zz-condor-gateway.config").read_text() == "old = 1\n"


def test_half_written_file_of_a_crash_is_one_that_htcondor_skips(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "rename", lambda old, new: seen.append(os.path.basename(old)))
    nodefile.write(nodefile.path(str(tmp_path)), "new = 1\n")
    # LOCAL_CONFIG_DIR_EXCLUDE_REGEXP begins with ^((\..*)|
    assert [name[0] for name in seen] == ["."]
