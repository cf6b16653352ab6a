"""Processes held by pidfd, on real processes. condor_master itself: test_on_a_pool.py."""

import os
import shutil
import signal
import subprocess

import pytest
import trio

from gateway.matchmaker.master import Held, Master, MasterMissing, children, executable, processes

SLEEP = os.path.realpath(shutil.which("sleep"))


@pytest.fixture
def sleeper():
    with subprocess.Popen([SLEEP, "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def held(sleeper):
    with Held.open(sleeper.pid, SLEEP) as held:
        yield held


async def test_end_of_a_process_is_seen_at_once_even_before_its_parent_collects_it(held):
    assert held.running
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.wait_exit)
            await trio.sleep(0.01)
            assert held.signal(signal.SIGKILL)
    assert not held.running  # a zombie: the fixture has not waited for it


async def test_several_may_wait_for_the_end_of_one_process_and_letting_go_of_it_disturbs_none(sleeper, held):
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # a negotiator's watcher, and who stops it for a swap
                nursery.start_soon(held.wait_exit)
            await trio.sleep(0.01)
            held.close()
            await trio.sleep(0.01)
            sleeper.kill()


def test_signal_to_a_process_that_has_ended_says_so(sleeper, held):
    sleeper.kill()
    sleeper.wait()
    assert not held.signal(signal.SIGTERM)


def test_process_of_another_program_is_not_held(sleeper):
    assert Held.open(sleeper.pid, "/usr/sbin/condor_master") is None


def test_process_that_has_ended_is_not_held(sleeper):
    sleeper.kill()
    sleeper.wait()
    assert Held.open(sleeper.pid, SLEEP) is None


def test_closed_hold_signals_nobody(sleeper):
    held = Held.open(sleeper.pid, SLEEP)
    held.close()
    assert not held.signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_reconfiguring_a_master_that_has_ended_is_a_named_failure(sleeper):
    with Master.open(sleeper.pid, SLEEP) as master:
        sleeper.kill()
        sleeper.wait()
        with pytest.raises(MasterMissing, match="ended"):
            master.reconfigure()


def test_children_are_found_by_their_program(sleeper):
    assert sleeper.pid in children(os.getpid())
    with Master.open(os.getpid(), executable(os.getpid())) as ourselves:
        assert ourselves.child(SLEEP) == sleeper.pid
        assert ourselves.child("/usr/sbin/condor_negotiator") is None


def test_processes_are_found_with_their_parents(sleeper):
    assert processes(SLEEP)[sleeper.pid] == os.getpid()


def test_program_that_was_replaced_by_an_upgrade_is_still_the_same_program(tmp_path):
    copy = tmp_path / "condor_master"
    shutil.copy(SLEEP, copy)
    with subprocess.Popen([copy, "60"]) as process:
        copy.unlink()
        assert executable(process.pid) == str(copy)
        process.kill()


@pytest.mark.kernel
def test_process_of_a_container_is_not_this_hosts(tmp_path):
    copy = tmp_path / "condor_master"
    shutil.copy(SLEEP, copy)
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", copy, "60"]) as process:
        while not (inside := [pid for pid in children(process.pid) if executable(pid) == str(copy)]):
            assert process.poll() is None
        assert executable(inside[0]) == str(copy)
        assert processes(str(copy)) == {}
        process.kill()
