"""Promises about a manager whose collector can't hear the pool: it is unfit until HTCondor was started anew."""

from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from gateway.config import load
from gateway.config.settings import Forward
from gateway.control import hearing
from gateway.control.hearing import Hearing

MINIMAL = Path(__file__).parents[2] / "haproxy-like-config" / "minimal.cfg"


class Condor:
    """HTCondor's answer, and how often it was asked."""

    def __init__(self):
        self.reason, self.asked = "it listens on one address only", []

    async def deafness(self, virtual):
        self.asked.append(list(virtual))
        return self.reason


@pytest.fixture
def condor(monkeypatch):
    made = Condor()
    monkeypatch.setattr(hearing, "deafness", made.deafness)
    return made


def of(forward, changed):
    settings = load(MINIMAL.read_text(), "minimal.cfg", {}).require()
    return Hearing(settings, msgspec.structs.replace(settings.backends[0], forward=forward), changed)


async def test_a_deaf_collector_is_told_and_asked_about_again_when_it_is_another_process(condor, nursery):
    told = []
    made = of(Forward.DIRECT, lambda: told.append(made.reason))
    await made.ask()
    assert (told, condor.asked) == ([condor.reason], [["10.77.0.100"]])
    nursery.start_soon(made.run)
    await trio.testing.wait_all_tasks_blocked()
    assert len(condor.asked) == 1, "nothing has changed"
    condor.reason = ""
    made.restarted()
    await trio.testing.wait_all_tasks_blocked()
    assert (told[1:], made.reason) == ([""], "")


@pytest.mark.parametrize("forward", [Forward.PROXY, Forward.NAT])
async def test_whoever_gets_packets_under_its_own_address_is_not_asked(condor, forward):
    made = of(forward, lambda: None)
    await made.ask()
    assert (condor.asked, made.reason) == ([], "")
