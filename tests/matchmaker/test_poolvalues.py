"""The pool's values that a merge needs, from what condor_config_val prints."""

import os
import re

import pytest

from gateway.core.reconcile import Pool
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.poolvalues import COMMAND, pool_from, pool_of

ANSWER = """\
# Configuration from machine: cm1
ACCOUNTANT_LOCAL_DOMAIN = lab
CLASSAD_LIFETIME = 600
DEFAULT_PRIO_FACTOR = 100.5
GROUP_NAMES = phys, phys.Hep
GROUP_PRIO_FACTOR_phys = 3
GROUP_PRIO_FACTOR_PHYS.HEP = 4.5
NEGOTIATOR.PRIORITY_HALFLIFE = 7200
NICE_USER_PRIO_FACTOR = 1e10
PRIORITY_HALFLIFE = 86400
REMOTE_PRIO_FACTOR = 5e6
UPDATE_INTERVAL = 250
# Contributing configuration file(s):
"""


def test_each_value_is_taken_as_htcondor_has_it():
    assert pool_from(ANSWER) == Pool(
        half_life_s=7200.0,
        stale_s=350,
        lifetime_s=600,
        factor_default=100.5,
        factor_nice=1e10,
        factor_remote=5e6,
        local_domain="lab",
        factor_groups={"phys": 3.0, "phys.Hep": 4.5},
    )


def test_what_htcondor_does_not_say_has_its_default():
    assert pool_from("") == Pool()


@pytest.mark.parametrize("value", ["", "none", "-1", "0", "inf", "nan", "1 + 1"])
def test_what_is_no_number_above_nothing_has_its_default(value):
    assert pool_from(f"PRIORITY_HALFLIFE = {value}\n") == Pool()


def test_slots_can_be_stale_for_no_less_than_no_time():
    assert pool_from("CLASSAD_LIFETIME = 100\nUPDATE_INTERVAL = 300\n").stale_s == 0


def test_the_names_that_are_asked_for_are_these_and_no_others():
    wanted = re.compile(COMMAND[-1], re.IGNORECASE)
    asked = "NEGOTIATOR.PRIORITY_HALFLIFE CLASSAD_LIFETIME COLLECTOR.CLASSAD_LIFETIME GROUP_PRIO_FACTOR_a.b"
    assert all(map(wanted.search, asked.split()))
    assert not any(map(wanted.search, ["STARTD.UPDATE_INTERVAL", "MASTER_UPDATE_INTERVAL", "GROUP_PRIO_FACTOR_"]))


async def test_a_host_without_htcondor_is_a_failure_of_its_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolFailed, match="cannot be run"):
        await pool_of()


async def test_one_tool_is_asked_once(monkeypatch, tmp_path):
    tool = tmp_path / "condor_config_val"
    tool.write_text('#!/bin/sh\necho "$@" >> "${0%/*}/asked"\necho "PRIORITY_HALFLIFE = 60"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (await pool_of()).half_life_s == 60.0
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
