"""Promises of `import-had`: condor_had's configuration, as HTCondor tells it, becomes a file that `check` accepts."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.config import load
from gateway.config.settings import OnPartition, Role
from gateway.console.had_import import Host, NoHad, Wanted, peers_of, read_had, render_file, split_host
from gateway.console.had_summary import render_summary
from gateway.doctor.condor import Knob, parse_dump
from gateway.lab.measure import had as lab_had
from gateway.lab.topology import Kind, System, Topology
from tests.support import condor_tree

WANTED = Wanted(address="10.77.0.100", device="eth0")
TWO = {
    "HAD_LIST": "cm1.lab.internal:9618, cm2.lab.internal:9618",
    "COLLECTOR_HOST": "cm1.lab.internal,cm2.lab.internal",
    "HAD_USE_REPLICATION": "True",
    "HAD_CONNECTION_TIMEOUT": "5",
}
ADDRESSES = {f"cm{number}.lab.internal": f"10.77.0.1{number}" for number in (1, 2, 3)}


def had_of(**changed):
    return read_had({name: Knob(value=value) for name, value in (TWO | changed).items() if value is not None})


def resolve(name):
    return ADDRESSES.get(name, name)


def file_of(had, wanted=WANTED):
    managers, gateways = peers_of(had, wanted, resolve)
    return render_file(had, wanted, managers, gateways)


def settings_of(had, wanted=WANTED):
    loaded = load(file_of(had, wanted), "gateway.cfg", {})
    return loaded.require()


def test_two_managers_become_gateways_and_managers_in_the_order_of_the_list():
    settings = settings_of(had_of())
    assert [(peer.name, peer.endpoint.host) for peer in settings.peers] == [
        ("cm1", "10.77.0.11"),
        ("cm2", "10.77.0.12"),
    ]
    assert {role for peer in settings.peers for role in peer.roles} == {Role.GATEWAY, Role.MANAGER}
    assert settings.addresses[0].holders == ("cm1", "cm2")
    assert [server.name for server in settings.backends[0].servers] == ["cm1", "cm2"]
    assert settings.backends[0].replicate_accounting


def test_two_voters_serve_apart_as_had_did_and_the_file_says_what_is_better():
    text = file_of(had_of())
    assert "    on-partition serve\n" in text
    assert "A third voter" in text
    assert settings_of(had_of()).on_partition is OnPartition.SERVE


def test_a_third_voter_makes_the_majority_go_on_and_nothing_need_be_said():
    for wanted in (
        Wanted(address="10.77.0.100", device="eth0", witness=Host("w1", "10.77.0.13")),
        Wanted(address="10.77.0.100", device="eth0", gateways=(Host("gw1", "10.77.0.91"), Host("gw2", "10.77.0.92"))),
    ):
        assert "on-partition" not in file_of(had_of(), wanted)
        assert settings_of(had_of(), wanted).on_partition is OnPartition.HOLD
    said = Wanted(address="10.77.0.100", device="eth0", on_partition=OnPartition.HOLD)
    assert settings_of(had_of(), said).on_partition is OnPartition.HOLD


def test_gateways_of_their_own_hold_the_address_alone():
    wanted = Wanted(
        address="10.77.0.100", device="eth0", gateways=(Host("gw1", "10.77.0.91"), Host("gw2", "10.77.0.92"))
    )
    settings = settings_of(had_of(), wanted)
    assert settings.addresses[0].holders == ("gw1", "gw2")
    assert settings.peer("cm1").roles == {Role.MANAGER}
    # Where managers are gateways too, HTCondor must leave the address's port to them, and the file says so.
    assert "BIND_ALL_INTERFACES" not in file_of(had_of(), wanted)
    assert "BIND_ALL_INTERFACES = False" in file_of(had_of())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cm1:9618", ("cm1", 9618)),
        ("cm1", ("cm1", None)),
        ("<10.0.0.1:9618?sock=had>", ("10.0.0.1", 9618)),
        ("[fd77::11]:51450", ("fd77::11", 51450)),
        ("<[fd77::11]:9618>", ("fd77::11", 9618)),
    ],
)
def test_every_way_to_write_a_manager_is_read(written, meant):
    assert split_host(written) == meant


def test_addresses_in_the_list_get_names():
    had = had_of(HAD_LIST="10.77.0.11:51450, 10.77.0.12:51450", COLLECTOR_HOST="10.77.0.11:9700, 10.77.0.12")
    settings = settings_of(had)
    assert [peer.name for peer in settings.peers] == ["cm1", "cm2"]
    assert [server.endpoint.port for server in settings.backends[0].servers] == [9700, 9618]


def test_managers_of_one_short_name_keep_the_long_one():
    had = had_of(HAD_LIST="cm.east.example:9618 cm.west.example:9618", COLLECTOR_HOST="cm.east.example cm.west.example")
    names = [
        host.name
        for host in peers_of(had, WANTED, lambda name: {"cm.east.example": "10.77.0.11"}.get(name, "10.77.0.12"))[0]
    ]
    assert names == ["cm.east.example", "cm.west.example"]


def test_another_state_file_is_replicated_beside_the_accounting():
    assert settings_of(had_of(STATE_FILE="/var/spool/condor/offline.log")).backends[0].replicate_files == (
        "/var/spool/condor/offline.log",
    )
    assert settings_of(had_of(STATE_FILE="/srv/condor/Accountantnew.log")).backends[0].replicate_files == ()


def test_the_old_time_stands_beside_the_new_one():
    summary = render_summary(had_of(), WANTED, 2)
    assert "120 s, 126 s at most; measured 97-124 s" in summary
    assert "lease 300 ms; measured 0.26-0.31 s" in summary
    assert "up to 300 s of it (REPLICATION_INTERVAL)" in summary
    faster = render_summary(had_of(HAD_CONNECTION_TIMEOUT="2", REPLICATION_INTERVAL="60"), WANTED, 2)
    assert "48 s, 54 s at most " in faster
    assert "97-124" not in faster
    assert "up to 60 s" in faster


def test_what_goes_is_named_with_its_place_and_defaults_are_not():
    knobs = parse_dump(
        "HAD_LIST = cm1:9618, cm2:9618\n # at: /etc/condor/config.d/50-pool.config, line 4\n # raw: x\n"
        "HAD_CONNECTION_TIMEOUT = 5\n # at: <Default>\n # raw: 5\n"
        "DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR HAD REPLICATION\n"
        " # at: /etc/condor/config.d/50-pool.config, line 9\n"
        "CONDOR_HOST = cm1,cm2\n # at: /etc/condor/config.d/50-pool.config, line 1\n # raw: cm1,cm2\n"
        "UID_DOMAIN = lab\n # at: /etc/condor/config.d/00-lab.config, line 1\n"
    )
    assert read_had(knobs).removals == (
        "HAD_LIST = cm1:9618, cm2:9618   (/etc/condor/config.d/50-pool.config, line 4)",
        "NEGOTIATOR, HAD, REPLICATION in DAEMON_LIST   (/etc/condor/config.d/50-pool.config, line 9)",
        "CONDOR_HOST = cm1,cm2   (/etc/condor/config.d/50-pool.config, line 1)",
    )


def test_lists_that_disagree_are_said_so():
    notes = had_of(COLLECTOR_HOST="cm1.lab.internal", REPLICATION_LIST="cm2.lab.internal:9618").notes
    assert "HTCondor wants both alike" in notes[0]
    assert "does not work so" in notes[1]
    assert had_of(REPLICATION_LIST=TWO["HAD_LIST"]).notes == ()


def test_what_is_no_had_is_refused_with_the_reason():
    with pytest.raises(NoHad, match="HAD_LIST is empty"):
        had_of(HAD_LIST="")
    with pytest.raises(NoHad, match="HAD_CONTROLLEE is SCHEDD"):
        had_of(HAD_CONTROLLEE="SCHEDD")


def test_the_primary_is_first_and_the_file_says_that_it_does_not_come_back_by_force():
    assert "HAD_USE_PRIMARY is not imitated" in file_of(had_of(HAD_USE_PRIMARY="true"))
    assert "HAD_USE_PRIMARY" not in file_of(had_of())


def fake_config_val(tmp_path, text, code="exit 0"):
    program = tmp_path / "condor_config_val"
    (tmp_path / "answer").write_text(text)
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n{code}\n")
    program.chmod(0o755)
    return str(program)


def test_what_had_does_not_know_is_asked_for_by_the_name_of_its_option(tmp_path, capsys):
    program = fake_config_val(tmp_path, "HAD_LIST = 10.77.0.11, 10.77.0.12\nCOLLECTOR_HOST = 10.77.0.11, 10.77.0.12\n")
    assert cli.run_command_line(["import-had", "--config-val", program]) == 1
    assert "HAD knows nothing of the pool's virtual address: say it with --address" in capsys.readouterr().err
    assert (
        cli.run_command_line(["import-had", "--config-val", program, "--address", "10.77.0.300", "--device", "eth0"])
        == 1
    )
    assert "gateway.cfg:" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_overwritten(tmp_path, capsys):
    program = fake_config_val(tmp_path, "HAD_LIST = 10.77.0.11, 10.77.0.12\nCOLLECTOR_HOST = 10.77.0.11, 10.77.0.12\n")
    command = ["import-had", "--config-val", program, "--address", "10.77.0.100", "--device", "eth0"]
    assert cli.run_command_line([*command, "-o", str(tmp_path / "gateway.cfg")]) == 0
    assert "remove from HTCondor's configuration" in capsys.readouterr().out
    assert cli.run_command_line(["check", "-f", str(tmp_path / "gateway.cfg")]) == 0
    assert cli.run_command_line([*command, "-o", str(tmp_path / "gateway.cfg")]) == 1
    assert "exists already and is not overwritten" in capsys.readouterr().err


def test_without_htcondor_it_is_one_sentence(tmp_path, capsys):
    assert cli.run_command_line(["import-had", "--config-val", str(tmp_path / "nothing")]) == 1
    assert "is not here: name HTCondor's with --config-val PATH" in capsys.readouterr().err
    program = fake_config_val(tmp_path, "", "echo broken >&2; exit 1")
    assert cli.run_command_line(["import-had", "--config-val", program]) == 1
    assert "can't read HTCondor's configuration: broken" in capsys.readouterr().err


@pytest.mark.kernel
@condor_tree.NEEDED
def test_the_labs_had_pool_is_imported_through_htcondors_own_answer(tmp_path, monkeypatch, capsys):
    topology = Topology(system=System.HAD, managers=2, gateways=0)
    folder = tmp_path / "config.d"
    folder.mkdir()
    manager = topology.of_kind(Kind.MANAGER)[0]
    hosts = f"CONDOR_HOST = {topology.condor_host}\nDAEMON_LIST = MASTER COLLECTOR\n"
    (folder / "50-pool.config").write_text(hosts + lab_had.manager_config(topology, manager))
    program = condor_tree.config_val(folder, tmp_path)
    monkeypatch.setattr("gateway.console.commands.import_had._resolve", lambda name, *, six: ADDRESSES[name])
    out = tmp_path / "gateway.cfg"
    command = [
        "import-had",
        "--config-val",
        str(program),
        "--address",
        "10.77.0.100",
        "--device",
        "eth0",
        "-o",
        str(out),
    ]
    assert cli.run_command_line(command) == 0
    said = capsys.readouterr().out
    assert "120 s, 126 s at most; measured 97-124 s" in said
    assert (
        "HAD_LIST = cm1.lab.internal:9618, cm2.lab.internal:9618   (/etc/condor/config.d/50-pool.config, line " in said
    )
    assert "NEGOTIATOR, HAD, REPLICATION in DAEMON_LIST" in said
    assert "STATE_FILE" in said
    assert "HAD_CONNECTION_TIMEOUT =" not in said  # a default is nobody's line
    checked = subprocess.run(
        [Path(sys.executable).parent / "condor-gateway", "check", "-f", out],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert load(out.read_text(), "gateway.cfg", {}).require().on_partition is OnPartition.SERVE
