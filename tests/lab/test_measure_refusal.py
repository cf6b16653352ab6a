"""A pool that is not healthy is neither broken nor measured."""

from types import SimpleNamespace

import msgspec
import pytest

from gateway.lab.measure import observe, scenarios
from gateway.lab.measure.ledger import Ledger
from gateway.lab.measure.view import ClusterView
from gateway.lab.topology import System, Topology
from tests.lab.test_measure_health import HEALTHY

EVENTS = "000 (001.000.000) 2026-11-22 23:30:00 x\n...\n005 (001.000.000) 2026-11-22 23:30:05 x\n...\n"


class Load:
    """A feeder that has seen `events`, and whose condor_submit was refused once."""

    def __init__(self, events: str) -> None:
        self.ledger = Ledger()
        self.ledger.read(events)
        self.failures = ["condor_submit: the schedd is away"]

    def look(self) -> Ledger:
        return self.ledger


async def refused(monkeypatch, events: str, snapshot) -> tuple[object, list[str]]:
    faults: list[str] = []

    async def kill(host: str) -> None:
        faults.append(host)

    async def view(lab) -> ClusterView:
        return ClusterView(leader="cm1", holder="gw1")

    async def look(*_) -> object:
        return snapshot

    monkeypatch.setattr(observe, "view", view)
    monkeypatch.setattr(observe, "snapshot", look)
    monkeypatch.setitem(scenarios.HEALTHY_S_MAX, System.OURS, 0.5)
    lab = SimpleNamespace(topology=Topology(), kill=kill, file=lambda host, path: monkeypatch)
    monkeypatch.setattr(observe.Logs, "mark", lambda self: None)
    measurement = scenarios.Measurement(lab, Load(events), lambda text: None, window_s=0.1)
    return await measurement.measure(scenarios.SCENARIOS["manager-kill"], 3), faults


async def test_unhealthy_pool_gives_the_reason_and_no_figure(monkeypatch):
    sick = msgspec.structs.replace(HEALTHY, submitter_ads=0, managers_unfit=("cm3",))
    result, faults = await refused(monkeypatch, EVENTS, sick)
    assert faults == []
    assert (result.healthy_before, result.repeat, result.elected_s) == (False, 3, None)
    assert result.refused == ("no submitter ad", "not fit and warm: cm3", "condor_submit: the schedd is away")


async def test_pool_that_never_completes_a_job_is_refused(monkeypatch):
    result, faults = await refused(monkeypatch, "", HEALTHY)
    assert faults == []
    assert result.refused == ("no job has completed", "condor_submit: the schedd is away")


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_every_scenario_names_a_fault_and_its_repair_that_a_lab_has(name):
    from gateway.lab.pool import Lab

    assert callable(getattr(Lab, scenarios.SCENARIOS[name].fault))
    assert callable(getattr(Lab, scenarios.SCENARIOS[name].repair))
