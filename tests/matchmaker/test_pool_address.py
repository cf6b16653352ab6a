"""What the negotiator says of where it is. That tools then find it: test_negotiator_behind_the_address.py."""

import msgspec
import pytest

from gateway.config.settings import Address, Backend, Bind, Endpoint, Frontend, Protocol, Server, Settings
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.pool_address import pool_address, render, virtual_endpoints

FOUR, SIX, OWN = Endpoint("10.77.0.100", 9618), Endpoint("fd00:77::100", 9620), Endpoint("10.77.0.11", 9618)
TCP = frozenset({Protocol.TCP})


def address(name, ip):
    return Address(name=name, ip=ip, prefix_length=32, device="eth0", holders=("gw1",))


def made(*binds):
    """Return settings of a pool whose frontends bind so, each ("address name", port, protocols), and its backend."""
    server = Server(name="cm1", endpoint=OWN)
    backend, other = Backend(name="managers", servers=(server,)), Backend(name="other", servers=(server,))
    settings = msgspec.convert(
        {
            "cluster": "c",
            "key_file": "",
            "state_dir": "",
            "log_format": "json",
            "peers_name": "lan",
            "heartbeat_ms": 50,
            "lease_ms": 300,
            "peers": [],
            "addresses": [],
            "frontends": [],
            "backends": [],
        },
        Settings,
    )
    frontends = (
        Frontend(name="else", binds=(Bind(address="other", port=80, protocols=TCP),), backend="other"),
        *(
            Frontend(name=f"f{port}", binds=(Bind(address=name, port=port, protocols=protocols),), backend="managers")
            for name, port, protocols in binds
        ),
    )
    addresses = (address("four", FOUR.host), address("six", SIX.host), address("other", "10.77.0.101"))
    settings = msgspec.structs.replace(settings, addresses=addresses, frontends=frontends, backends=(backend, other))
    return settings, backend


def parameters(text):
    """Return (address, {parameter: value}) of the MyAddress in `text`."""
    line = next(line for line in text.splitlines() if line.startswith("MyAddress = "))
    primary, _, rest = line.removeprefix('MyAddress = "<').removesuffix('>"').partition("?")
    return primary, dict(pair.partition("=")[::2] for pair in rest.split("&"))


def host(shared_port_ad):
    names = ("config_dir", "spool", "log", "accountant_log", "master", "negotiator", "collector", "version")
    rest = {"uid": 1, "gid": 1, "shared_port_ad": shared_port_ad, "alias": "pool.example.org"}
    rest["full_hostname"] = "cm1.lab.internal"
    return CondorHost(**dict.fromkeys(names, ""), **rest)


def test_the_address_is_the_pools_and_the_name_is_the_managers():
    primary, said = parameters(render((FOUR,), OWN, "pool.example.org", "cm1"))
    assert primary == "10.77.0.100:9618"
    assert (said["addrs"], said["alias"]) == ("10.77.0.100-9618", "pool.example.org")
    assert "noUDP" in said  # shared_port has none


def test_this_host_takes_the_short_way():
    """PRIVATE_NETWORK_NAME is a host's full name by default, and nobody else's."""
    _, said = parameters(render((FOUR,), OWN, "pool.example.org", "cm1.lab.internal"))
    assert (said["PrivNet"], said["PrivAddr"]) == ("cm1.lab.internal", "%3c10.77.0.11:9618%3e")


def test_addresses_of_both_families_are_given_without_colons():
    primary, said = parameters(render((FOUR, SIX), OWN, "cm1", "cm1"))
    assert (primary, said["addrs"]) == ("10.77.0.100:9618", "10.77.0.100-9618+[fd00-77--100]-9620")
    assert parameters(render((SIX,), OWN, "cm1", "cm1"))[0] == "[fd00:77::100]:9620"


def test_the_pool_is_found_at_the_tcp_binds_of_its_own_frontends():
    settings, backend = made(
        ("six", 9620, TCP), ("four", 9617, frozenset({Protocol.UDP})), ("four", 9618, TCP), ("four", 9700, TCP)
    )
    assert virtual_endpoints(settings, backend) == (FOUR, SIX)


def test_the_negotiators_file_lies_beside_htcondors_own():
    settings, backend = made(("four", 9618, TCP))
    found = pool_address(settings, backend, OWN, host("/var/lock/condor/shared_port_ad"))
    assert found is not None
    assert found.file == "/var/lock/condor/shared_port_ad.condor-gateway"
    assert found.text == render((FOUR,), OWN, "pool.example.org", "cm1.lab.internal")


@pytest.mark.parametrize(("binds", "file"), [((), "/var/lock/ad"), ((("four", 9618, TCP),), "")])
def test_without_frontend_or_shared_port_the_negotiator_stays_at_its_own_address(binds, file):
    assert pool_address(*made(*binds), OWN, host(file)) is None
