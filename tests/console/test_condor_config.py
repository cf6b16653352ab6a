"""Promises of `condor-config`: what it prints is for a host of this pool, and HTCondor reads it as it is meant."""

import itertools
from pathlib import Path

import pytest

from gateway import cli
from gateway.config import load
from gateway.config.settings import Forward
from gateway.lab import cluster
from gateway.lab.topology import Topology
from gateway.matchmaker.pool_config import HostRole, NoPool, pool_of, render
from tests.support import condor_tree

EXAMPLES = Path(__file__).parents[2] / "haproxy-like-config"

TWO_FAMILIES = """
address pool-six
    ip fd77::100/128 dev eth0
    holder gw1 gw2
"""


def settings_of(text):
    loaded = load(text, "gateway.cfg", {})
    return loaded.require()


def printed(role, *, node=None, text=None, **topology):
    settings = settings_of(text or cluster.gateway_config(Topology(**topology)))
    return render(settings, pool_of(settings, None), HostRole(role), node=node)


def lines_of(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("role", ["submit", "execute"])
def test_a_pool_host_gets_the_virtual_address_and_whom_to_trust_and_nothing_else(role):
    assert lines_of(printed(role)) == ["CONDOR_HOST = 10.77.0.100", "use SECURITY : recommended_v9_0"]


def test_every_line_has_its_reason_above_it():
    for role in HostRole:
        for forward in Forward:
            written = printed(role, node="cm1", forward=forward).splitlines()
            for before, line in itertools.pairwise(written):
                if line and not line.startswith("#"):
                    assert before.startswith("# "), line
            assert max(map(len, written)) <= 120


def test_an_ipv6_address_is_in_brackets():
    assert "CONDOR_HOST = [fd77::100]" in printed("execute", ip_version=6)


def test_a_port_that_is_not_htcondors_is_said_on_both_sides():
    text = cluster.gateway_config(Topology()).replace("pool-vip:9618", "pool-vip:9700").replace(":9618", ":9800")
    assert "COLLECTOR_HOST = $(CONDOR_HOST):9700" in lines_of(printed("submit", text=text))
    manager = lines_of(printed("manager", text=text))
    assert "COLLECTOR_HOST = $(CONDOR_HOST):9800" in manager
    assert "SHARED_PORT_PORT = 9800" in manager


def test_a_pool_with_two_addresses_gives_its_hosts_one():
    text = cluster.gateway_config(Topology()) + TWO_FAMILIES
    text = text.replace("bind pool-vip:9618", "bind pool-six:9618\n    bind pool-vip:9618")
    written = printed("execute", text=text)
    assert "CONDOR_HOST = 10.77.0.100" in lines_of(written)
    assert "# Hosts that speak IPv6 alone write instead: CONDOR_HOST = [fd77::100]" in written


def test_a_manager_names_itself_and_lists_no_negotiator():
    written = lines_of(printed("manager"))
    assert "CONDOR_HOST = $(FULL_HOSTNAME)" in written
    assert "DAEMON_LIST = MASTER COLLECTOR" in written
    assert not any("10.77.0.100" in line for line in written)


def test_with_direct_a_manager_speaks_of_itself_by_its_own_address():
    written = printed("manager", node="cm2", forward=Forward.DIRECT)
    assert "NETWORK_INTERFACE = 10.77.0.12" in lines_of(written)
    assert "BIND_ALL_INTERFACES = True" in lines_of(written)
    anybody = printed("manager", forward=Forward.DIRECT)
    assert "# cm3: NETWORK_INTERFACE = 10.77.0.13" in anybody
    assert not any("NETWORK_INTERFACE" in line for line in lines_of(anybody))


def test_a_manager_that_is_a_gateway_too_leaves_the_addresss_port_to_it():
    text = (EXAMPLES / "two-nodes-witness.cfg").read_text()
    written = lines_of(printed("manager", node="cm2", text=text))
    assert "BIND_ALL_INTERFACES = False" in written
    assert "NETWORK_INTERFACE = 10.77.0.12" in written
    assert not any("BIND_ALL_INTERFACES" in line for line in lines_of(printed("manager", node="cm2")))


def test_who_authorises_by_host_is_told_whose_addresses_daemons_see():
    assert "# ALLOW_WRITE = $(ALLOW_WRITE) 10.77.0.91 10.77.0.92 10.77.0.11" in printed("manager")
    assert "10.77.0.91" not in printed("manager", transparent=True)
    assert "# ALLOW_NEGOTIATOR = $(ALLOW_NEGOTIATOR) 10.77.0.11 10.77.0.12 10.77.0.13" in printed("submit")


def test_a_file_with_two_pools_wants_a_name():
    settings = settings_of((EXAMPLES / "two-pools.cfg").read_text())
    first, second = (backend.name for backend in settings.backends)
    with pytest.raises(NoPool, match=f"several pools: name one of them with --backend: {first}, {second}"):
        pool_of(settings, None)
    assert pool_of(settings, second).name == second
    with pytest.raises(NoPool, match=f"no backend 'third' in this file: it has {first}, {second}"):
        pool_of(settings, "third")


def test_a_node_that_is_no_manager_is_refused(tmp_path, capsys):
    file = tmp_path / "gateway.cfg"
    file.write_text(cluster.gateway_config(Topology()))
    command = ["condor-config", "-f", str(file), "--role", "manager"]
    assert cli.run_command_line([*command, "--node", "gw1"]) == 1
    assert "'gw1' is no server of backend 'managers': it has cm1, cm2, cm3" in capsys.readouterr().err
    assert cli.run_command_line(command) == 0
    assert "DAEMON_LIST = MASTER COLLECTOR" in capsys.readouterr().out


@pytest.mark.kernel
@condor_tree.NEEDED
def test_htcondor_reads_what_is_printed_as_it_is_meant(tmp_path):
    folder = tmp_path / "config.d"
    folder.mkdir()
    program = condor_tree.config_val(folder, tmp_path)
    wanted = {
        "manager": {"DAEMON_LIST": "MASTER COLLECTOR", "NETWORK_INTERFACE": "10.77.0.11", "NEGOTIATOR_INTERVAL": "5"},
        "submit": {"CONDOR_HOST": "10.77.0.100", "COLLECTOR_HOST": "10.77.0.100", "SECURITY_MODEL": "9.0"},
        "execute": {"CONDOR_HOST": "10.77.0.100", "ALLOW_NEGOTIATOR": "condor@* condor_pool@*"},
        "gateway": {"CONDOR_HOST": "10.77.0.100", "DAEMON_LIST": "MASTER"},
    }
    for role, values in wanted.items():
        (folder / "50-pool.config").write_text(printed(role, node="cm1", forward=Forward.DIRECT))
        assert condor_tree.ask(program, *values) == values
    (folder / "50-pool.config").write_text(printed("manager"))
    own = condor_tree.ask(program, "CONDOR_HOST", "FULL_HOSTNAME", "COLLECTOR_HOST", "NEGOTIATOR_ARGS")
    assert own["CONDOR_HOST"] == own["FULL_HOSTNAME"] == own["COLLECTOR_HOST"]
    assert own["NEGOTIATOR_ARGS"] == "-sock negotiator"
