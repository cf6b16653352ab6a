"""The jobs of several users, counted together and apart."""

from types import SimpleNamespace

import pytest

from gateway.lab.errors import LabError
from gateway.lab.measure.load import QUEUE_S_MAX, Load
from gateway.lab.topology import Topology

EVENT = "000 (00{cluster}.000.000) 2026-11-22 23:30:00 x\n...\n"


@pytest.fixture
def files(tmp_path):
    return {user: tmp_path / f"{user}.log" for user in ("ann", "bob", "eve")}


@pytest.fixture
def load(files):
    lab = SimpleNamespace(topology=Topology(), file=lambda host, path: files[path.split("/")[2]])
    return Load(lab, "mark", users=("ann", "bob"), slots=4)


def test_jobs_of_every_user_are_counted(load, files):
    files["ann"].write_text(EVENT.format(cluster=1))
    assert load.look().idle == 1
    files["bob"].write_text(EVENT.format(cluster=2))
    assert load.look().idle == 2


def test_line_that_is_torn_in_one_users_log_is_not_continued_by_anothers(load, files):
    whole = EVENT.format(cluster=1)
    files["ann"].write_text(whole[:20])
    files["bob"].write_text(EVENT.format(cluster=2))
    assert load.look().idle == 1
    files["ann"].write_text(whole)
    assert load.look().idle == 2


def test_every_user_has_a_share_of_the_slots_jobs_and_one_more_user_has_one_too(load, files):
    assert load.idle_min == 16
    load.add_user("eve")
    assert load.idle_min == 24
    files["eve"].write_text(EVENT.format(cluster=3))
    assert load.look().idle == 1


async def test_schedd_that_stands_still_for_a_while_has_lost_no_job(load, files, autojump_clock):
    files["ann"].write_text(EVENT.format(cluster=1))
    answers = [LabError("'condor_q' took longer than 30 s"), SimpleNamespace(returncode=1), "1 0\n"]

    async def answering(host, argv):
        answer = answers.pop(0)
        if isinstance(answer, LabError):
            raise answer
        return SimpleNamespace(returncode=0, stdout=answer) if isinstance(answer, str) else answer

    load._lab.exec = answering
    assert await load.lost() == set()
    assert not answers
    assert load.silent_s > 0


async def test_queue_that_never_answers_is_not_known_to_be_whole(load, autojump_clock):
    async def silent(host, argv):
        raise LabError("'condor_q' took longer than 30 s")

    load._lab.exec = silent
    assert await load.lost() is None
    assert load.silent_s >= QUEUE_S_MAX
