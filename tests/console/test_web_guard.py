"""The guard before the web application: which hosts a page may be asked for by."""

import pytest

from gateway.console.web_guard import is_known_host

HOSTS = {"localhost", "gw1", "status.example.org"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9620",
        "[::1]:9620",
        "10.0.0.5",
        "[fd77::5]",
        "localhost:9620",
        "GW1:9620",
        "gw1",
        "status.example.org.:80",
    ],
)
def test_page_is_given_by_its_address_and_by_its_own_names(host):
    assert is_known_host(host, HOSTS)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9620",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[::1",
        "[evil]:1",
        "gw1:x",
        "gw1@evil.example",
        "[::1]evil",
    ],
)
def test_page_is_not_given_by_a_name_that_may_have_been_bound_anew(host):
    assert not is_known_host(host, HOSTS)
