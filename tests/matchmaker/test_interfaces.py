"""Promises about HTCondor's interfaces on a manager that takes the pool's address on its loopback device."""

import pytest

from gateway.matchmaker.interfaces import deaf, family_sessions, hazards

OWN, VIRTUAL = "10.77.0.11", ["10.77.0.100"]


@pytest.mark.parametrize("interface", [OWN, "eth0", "10.77.0.1, 10.77.0.11"])
def test_a_manager_that_names_its_own_interface_and_listens_on_all_is_fine(interface):
    assert hazards(interface, "true", OWN, VIRTUAL) == []


@pytest.mark.parametrize("interface", ["*", "10.77.0.*", "192.168.1.*, 10.77.*"])
def test_an_interface_that_fits_the_pools_address_is_told_with_what_to_write(interface):
    (told,) = hazards(interface, "true", OWN, VIRTUAL)
    assert "would advertise 10.77.0.100 as their own" in told
    assert told.endswith("write NETWORK_INTERFACE = 10.77.0.11 on this host")


@pytest.mark.parametrize("value", ["False", "false", "0"])
def test_a_collector_that_listens_on_one_address_is_told_that_it_hears_nothing(value):
    (told,) = hazards(OWN, value, OWN, VIRTUAL)
    assert "never hears what 'forward direct' sends to 10.77.0.100" in told
    assert deaf(value, VIRTUAL) == told, "the same makes it unfit"


@pytest.mark.parametrize("value", ["True", "true", "1", "yes", ""])
def test_a_collector_that_listens_on_all_is_fit(value):
    assert deaf(value, VIRTUAL) == ""


@pytest.mark.parametrize(
    ("shared_port", "family", "told"),
    [
        ("False", "True", 1),
        ("no", "true", 1),
        ("False", "", 1),
        ("False", "False", 0),
        ("True", "True", 0),
        ("", "", 0),
    ],
)
def test_a_collector_without_a_shared_port_is_told_to_offer_no_family_session(shared_port, family, told):
    found = family_sessions(shared_port, family)
    assert len(found) == told
    assert all(one.endswith("write SEC_USE_FAMILY_SESSION = False on this host") for one in found)
