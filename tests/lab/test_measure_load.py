"""The jobs of several users, counted together and apart."""

from types import SimpleNamespace

import pytest

from gateway.lab.measure.load import Load
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
