"""Promises about a manager whose configuration does not say `negotiator on-elected`: its negotiator is left alone."""

import pytest
import trio
from structlog.testing import capture_logs

from gateway.matchmaker import negotiator as negotiator_module
from gateway.matchmaker import nodefile
from gateway.matchmaker.bystander import Bystander
from gateway.matchmaker.negotiator import Negotiator, NegotiatorFailed, NegotiatorReason

VIEWS = ("127.0.0.1:19600",)


class Master:
    """A condor_master that counts its SIGHUPs."""

    def __init__(self):
        self.hangups = 0
        self.running = True

    def reconfigure(self):
        self.hangups += 1

    def __getattr__(self, name):
        raise AssertionError(f"{name}: nothing else is asked of condor_master, and no process of its is looked for")


class Host:
    def __init__(self, config_dir):
        self.config_dir = str(config_dir)
        self.master, self.negotiator = "/usr/sbin/condor_master", "/usr/sbin/condor_negotiator"


@pytest.fixture
def master(monkeypatch):
    made = Master()

    async def find(host):
        return made

    async def configuration(*words, timeout_ms):
        return f"{nodefile.SESSION_S}\nMASTER COLLECTOR NEGOTIATOR SCHEDD\n"

    monkeypatch.setattr(negotiator_module, "find_master", find)
    monkeypatch.setattr(negotiator_module, "run_tool", configuration)
    return made


@pytest.fixture
def role(tmp_path):
    return tmp_path / "role.config"


@pytest.fixture
def bystander(tmp_path, master, role):
    return Bystander(Host(tmp_path), None, str(role))


async def test_a_negotiator_of_htcondors_own_is_no_reason_to_refuse_the_host(bystander, master, role, tmp_path):
    await bystander.reset_at_start()
    assert "DAEMON_LIST =" not in role.read_text()
    assert master.hangups == 1
    with pytest.raises(NegotiatorFailed) as refused:
        await Negotiator(Host(tmp_path), None, str(role)).reset_at_start()
    assert refused.value.reason is NegotiatorReason.LISTED_ELSEWHERE


async def test_the_elected_collector_forwards_and_the_list_of_daemons_stays(bystander, master, role):
    await bystander.start(VIEWS)
    said = role.read_text()
    assert f"CONDOR_VIEW_HOST = $(CONDOR_VIEW_HOST) {VIEWS[0]}" in said
    assert "DAEMON_LIST =" not in said
    assert "leaves the negotiator alone" in said
    await bystander.start(VIEWS)
    assert master.hangups == 1, "nothing has changed"
    await bystander.stop(0)
    assert "CONDOR_VIEW_HOST" not in role.read_text()
    assert master.hangups == 2


async def test_a_reload_goes_on_with_the_forwarding_that_there_is_and_says_that_negotiators_are_left_alone(
    bystander, master, role, tmp_path
):
    await bystander.start(VIEWS)
    after = Bystander(Host(tmp_path), None, str(role))
    with capture_logs() as said:
        await after.resume(VIEWS, start=True)
    assert [event["event"] for event in said] == ["negotiator.left-alone"]
    assert master.hangups == 1, "nothing has changed"


async def test_nothing_is_held_killed_or_missed(bystander, autojump_clock):
    await bystander.start(())
    bystander.kill()
    assert bystander.held == (None, None)
    assert (bystander.running, bystander.pid, bystander.may_appear) == (False, None, False)
    with trio.move_on_after(3_600) as waiting:
        await bystander.wait_exit()
    assert waiting.cancelled_caught, "its end is no failure of this manager"
