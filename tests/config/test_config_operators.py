"""The words of operators: stats sockets, notification, the status page, and what each may not be."""

import pytest
from config_files import errors, load_sample, warnings

from gateway.config.settings import Console, Endpoint, Level, LogFormat, Notify, StatsSocket

LOG = "    log stdout format json\n"


def with_global(*lines):
    return load_sample((LOG, LOG + "".join(f"    {line}\n" for line in lines)))


def with_console(*lines):
    return load_sample(("peers lan\n", "console\n" + "".join(f"    {line}\n" for line in lines) + "peers lan\n"))


def test_without_a_word_nobody_is_told_and_nothing_listens():
    found = load_sample().require()
    assert (found.stats_sockets, found.notify, found.console) == ((), Notify(), None)
    assert not found.notify
    assert not found.frontends[0].tcplog


def test_a_stats_socket_is_written_as_in_haproxy():
    found = with_global(
        "stats socket /run/gateway/a.sock",
        "stats socket /run/gateway/b.sock mode 0660 user haproxy group _chrony level admin",
    ).require()
    assert found.stats_sockets == (
        StatsSocket(path="/run/gateway/a.sock", mode=0o600, user="", group="", level=Level.OPERATOR),
        StatsSocket(path="/run/gateway/b.sock", mode=0o660, user="haproxy", group="_chrony", level=Level.ADMIN),
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stats socket run/a", "stats socket: 'run/a' is not an absolute path: start it with '/'"),
        (
            "stats socket /a mode 1777",
            "stats socket: mode: '1777' is not a mode: write three octal digits, as in '660' for owner and group",
        ),
        ("stats socket /a level root", "stats socket: level: must be 'user', 'operator' or 'admin', not 'root'"),
        ("stats socket /a user :x", "stats socket: user: ':x' is not the name of a user or group"),
        (
            "stats socket /var/lib/condor-gateway/./admin.sock",
            "stats socket: '/var/lib/condor-gateway/./admin.sock' is the node's own socket, for root alone: "
            "give this one another path",
        ),
        (
            "notify command page.sh now",
            "notify command: 'page.sh' is not an absolute path: nothing searches PATH, and no shell reads the line",
        ),
        (
            "notify timeout 1",
            "notify timeout: '1' (a bare number is milliseconds) is below 100ms: "
            "a busy host starts a program later than that",
        ),
    ],
)
def test_what_can_not_be_is_refused(line, told):
    assert errors(with_global(line)) == [told]


def test_two_sockets_have_two_paths_that_the_kernel_takes():
    assert errors(with_global("stats socket /run/a", "stats socket /run//a")) == [
        "stats socket: '/run//a' is already one, on line 6"
    ]
    (told,) = errors(with_global(f"stats socket /{'x' * 107}"))
    assert "the kernel takes 107 bytes at most" in told


def test_a_socket_for_everybody_is_said_aloud_with_what_it_may_do():
    (told,) = warnings(with_global("stats socket /run/a mode 666 level admin"))
    assert told.startswith("stats socket: every user of this host may connect to '/run/a', and change everything")
    assert warnings(with_global("stats socket /run/a mode 664 level admin")) == []


def test_notification_is_a_program_and_its_arguments():
    found = with_global(
        "notify command /usr/bin/logger -t pool 'a change'",
        "notify command /bin/true",
        "notify fifo /run/changes",
        "notify user monitor",
        "notify timeout 3s",
    ).require()
    assert found.notify == Notify(
        commands=(("/usr/bin/logger", "-t", "pool", "a change"), ("/bin/true",)),
        fifo="/run/changes",
        user="monitor",
        timeout_ms=3_000,
    )


def test_a_word_about_commands_without_one_is_said():
    assert warnings(with_global("notify user monitor")) == [
        "notify user: there is no 'notify command' that it could be about"
    ]


def test_a_console_section_alone_is_a_page_for_this_host():
    assert with_console().require().console == Console(
        bind=Endpoint("127.0.0.1", 9620), token_file="", user="nobody", hosts=()
    )


def test_a_console_says_where_and_for_whom():
    found = with_console(
        "bind [::1]:8080", "admin token-file /etc/token", "user www", "allow-host Pool.Example a", "allow-host b"
    )
    assert warnings(found) == []
    assert found.require().console == Console(
        bind=Endpoint("::1", 8080), token_file="/etc/token", user="www", hosts=("pool.example", "a", "b")
    )


@pytest.mark.parametrize(
    ("written", "bound"), [(":9620", "0.0.0.0"), ("*:9620", "0.0.0.0"), ("[::]:9620", "::"), ("10.77.0.91:80", "")]
)
def test_a_page_that_others_reach_is_said_aloud(written, bound):
    loaded = with_console(f"bind {written}")
    assert loaded.require().console.bind.host == (bound or "10.77.0.91")
    (told,) = warnings(loaded)
    assert "is readable by everybody who reaches that address, and has no TLS" in told
    (told,) = warnings(with_console(f"bind {written}", "admin token-file /etc/token"))
    assert "the admin token passes over the network as it is" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bind localhost:9620", "bind: 'localhost:9620' is not an IP address: write '127.0.0.1:9620'"),
        ("bind :9619", "bind: port 9619 is that of peer 'gw1' on line 12: write another"),
        ("admin token-file token", "admin token-file: 'token' is not an absolute path: start it with '/'"),
        ("allow-host a:80", "allow-host: 'a:80' has a port: write the host alone"),
        ("allow-host https://a", "allow-host: 'https://a' is an URL: write the host alone"),
        ("allow-host -a", "allow-host: '-a' is not the name of a host"),
    ],
)
def test_a_page_that_can_not_be_is_refused(line, told):
    assert errors(with_console(line)) == [told]


def test_connections_are_logged_where_the_frontend_says_so():
    found = load_sample(("    default_backend", "    option tcplog\n    default_backend")).require()
    assert found.frontends[0].tcplog
    assert load_sample(("format json", "format short")).require().log_format is LogFormat.SHORT


def test_gateways_are_advertised_where_the_managers_are_htcondors_unless_said():
    assert load_sample().require().backends[0].advertise
    assert not load_sample(("    option condor-check\n", "")).require().backends[0].advertise
    assert not load_sample(("    option condor-check", "    advertise off")).require().backends[0].advertise
    said = load_sample(("    option condor-check", "    option condor-check\n    advertise off"))
    assert not said.require().backends[0].advertise
