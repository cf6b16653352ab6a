import msgspec
import pytest
from config_files import load_sample

from gateway.config import ConfigError, identify
from gateway.config.settings import Endpoint

SETTINGS = load_sample().settings


def find(settings=SETTINGS, node=None, host_name="stranger", addresses=()):
    return identify(settings, node=node, host_name=host_name, local_addresses=frozenset(addresses)).name


def renamed(**names):
    peers = tuple(msgspec.structs.replace(peer, name=names.get(peer.name, peer.name)) for peer in SETTINGS.peers)
    return msgspec.structs.replace(SETTINGS, peers=peers)


@pytest.mark.parametrize("host_name", ["cm2", "CM2", "cm2.example.org", "cm2.example.org."])
def test_a_host_finds_itself_by_its_name(host_name):
    assert find(host_name=host_name) == "cm2"


def test_a_peer_may_be_written_with_the_full_name():
    assert find(renamed(cm2="cm2.example.org"), host_name="cm2") == "cm2.example.org"
    assert find(renamed(cm2="cm2.example.org"), host_name="cm2.example.org") == "cm2.example.org"


def test_the_full_name_decides_between_two_sites():
    settings = renamed(cm2="cm.north", cm3="cm.south")
    assert find(settings, host_name="cm.south") == "cm.south"
    with pytest.raises(ConfigError):
        find(settings, host_name="cm")


def test_a_host_finds_itself_by_an_address_that_it_has():
    assert find(addresses=["127.0.0.1", "::1", "fe80::1%eth0", "10.77.0.13"]) == "cm3"


def test_an_ipv6_address_is_found_in_any_spelling():
    peers = (msgspec.structs.replace(SETTINGS.peers[0], endpoint=Endpoint("fd00::1", 9619)),)
    assert find(msgspec.structs.replace(SETTINGS, peers=peers), addresses=["FD00:0:0::1"]) == "gw1"


def test_what_the_operator_says_goes_before_the_name_and_the_name_before_the_address():
    assert find(node="gw2", host_name="cm1", addresses=["10.77.0.13"]) == "gw2"
    assert find(host_name="cm1", addresses=["10.77.0.13"]) == "cm1"


def test_a_stranger_is_told_who_the_peers_are():
    with pytest.raises(ConfigError) as caught:
        find(addresses=["10.0.0.1"])
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("this host 'stranger' is none of the peers 'gw1' (10.77.0.91), 'gw2'")
    assert message.endswith("add it to the file, or say which it is with --node NAME")


def test_an_unknown_node_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"--node 'cm33' is none of the peers; did you mean 'cm3'\?"):
        find(node="cm33")


def test_a_host_with_the_addresses_of_two_peers_must_say_which_it_is():
    with pytest.raises(ConfigError, match=r"'cm1' and 'cm2'.*--node"):
        find(addresses=["10.77.0.11", "10.77.0.12"])
