import msgspec
import pytest
from config_files import ENVIRONMENT, EXAMPLES, SAMPLE, errors, load_sample, sample, warnings

from gateway.config import ConfigError, Severity, load, render_all
from gateway.config.keywords import SECTIONS
from gateway.config.settings import (
    Address,
    Backend,
    Bind,
    Endpoint,
    Forward,
    Frontend,
    LogFormat,
    OnPartition,
    Peer,
    Protocol,
    Role,
    Server,
    Settings,
)
from gateway.config.values import read_value

GATEWAY, MANAGER = frozenset({Role.GATEWAY}), frozenset({Role.MANAGER})
BOTH = frozenset({Protocol.TCP, Protocol.UDP})


def settings(*changes, **options):
    loaded = load_sample(*changes, **options)
    assert errors(loaded) == []
    return loaded.settings


def test_the_sample_says_what_it_seems_to_say():
    loaded = load_sample()
    assert loaded.diagnostics == ()
    assert loaded.settings == Settings(
        cluster="physics-pool",
        key_file="/etc/condor-gateway/cluster.key",
        state_dir="/var/lib/condor-gateway",
        log_format=LogFormat.JSON,
        peers_name="lan",
        heartbeat_ms=50,
        lease_ms=300,
        peers=(
            Peer(name="gw1", endpoint=Endpoint("10.77.0.91", 9619), roles=GATEWAY),
            Peer(name="gw2", endpoint=Endpoint("10.77.0.92", 9619), roles=GATEWAY),
            Peer(name="cm1", endpoint=Endpoint("10.77.0.11", 9619), roles=MANAGER),
            Peer(name="cm2", endpoint=Endpoint("10.77.0.12", 9619), roles=MANAGER),
            Peer(name="cm3", endpoint=Endpoint("10.77.0.13", 9619), roles=MANAGER),
        ),
        addresses=(
            Address(name="pool-vip", ip="10.77.0.100", prefix_length=32, device="eth0", holders=("gw1", "gw2")),
        ),
        frontends=(
            Frontend(
                name="matchmaker",
                binds=(Bind(address="pool-vip", port=9618, protocols=BOTH),),
                backend="managers",
            ),
        ),
        backends=(
            Backend(
                name="managers",
                servers=tuple(
                    Server(
                        name=f"cm{n}",
                        endpoint=Endpoint(f"10.77.0.1{n}", 9618),
                        check=True,
                        inter_ms=100,
                        fall=3,
                        rise=2,
                    )
                    for n in (1, 2, 3)
                ),
                forward=Forward.PROXY,
                condor_check=True,
                connect_ms=2000,
                queue_ms=5000,
                negotiator_on_elected=True,
                warm_standby=True,
                replicate_accounting=True,
                advertise=True,
            ),
        ),
    )


def test_the_shipped_minimal_configuration_says_the_same_as_the_sample():
    loaded = load((EXAMPLES / "minimal.cfg").read_text(), "minimal.cfg", {})
    assert loaded.diagnostics == ()
    assert loaded.settings == load_sample().settings


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.cfg")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_says_when_to_use_it_and_is_listed(path):
    text = path.read_text()
    loaded = load(text, path.name, {})
    assert (errors(loaded), warnings(loaded)) == ([], [])
    assert "When to use it:" in text
    assert f"| `{path.name}` |" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "voters", "policy", "addresses"),
    [
        ("minimal", 5, OnPartition.HOLD, 1),
        ("two-nodes-witness", 3, OnPartition.HOLD, 1),
        ("serve-on-partition", 2, OnPartition.SERVE, 1),
        ("ipv4-and-ipv6", 5, OnPartition.HOLD, 2),
        ("address-alone", 3, OnPartition.HOLD, 1),
        ("direct", 5, OnPartition.HOLD, 1),
        ("nat", 5, OnPartition.HOLD, 1),
        ("two-pools", 7, OnPartition.HOLD, 2),
        ("two-hosts", 2, OnPartition.HOLD, 1),
        ("campus", 5, OnPartition.HOLD, 2),
        ("haproxy-style", 5, OnPartition.HOLD, 1),
        ("operators", 5, OnPartition.HOLD, 1),
    ],
)
def test_a_shipped_configuration_says_what_its_comment_promises(name, voters, policy, addresses):
    found = load((EXAMPLES / f"{name}.cfg").read_text(), "x.cfg", {}).require()
    assert (len(found.peers), found.on_partition, len(found.addresses)) == (voters, policy, addresses)


@pytest.mark.parametrize(
    ("name", "ways"),
    [("minimal", [Forward.PROXY]), ("direct", [Forward.DIRECT]), ("nat", [Forward.NAT]), ("two-pools", ["proxy"] * 2)],
)
def test_a_shipped_configuration_forwards_as_its_name_says(name, ways):
    found = load((EXAMPLES / f"{name}.cfg").read_text(), "x.cfg", {}).require()
    assert [backend.forward for backend in found.backends] == ways
    assert all(backend.negotiator_on_elected for backend in found.backends)


def test_the_data_plane_has_its_settings():
    found = settings(
        ("    log stdout", "    relay-workers 3\n    log stdout"),
        (
            "    default_backend",
            "    maxconn 900\n    maxconn-per-source 90\n    timeout client 2h\n    timeout client-hello 5s\n"
            "    default_backend",
        ),
        ("forward proxy", "forward nat transparent\n    timeout drain 1m"),
    )
    assert found.relay_workers == 3
    frontend, backend = found.frontends[0], found.backends[0]
    assert (frontend.client_ms, frontend.hello_ms) == (7_200_000, 5_000)
    assert (frontend.maxconn, frontend.maxconn_source) == (900, 90)
    assert (backend.forward, backend.transparent, backend.drain_ms) == (Forward.NAT, True, 60_000)


@pytest.mark.parametrize(
    ("lines", "of_source"),
    [("", 1_000), ("maxconn 20000", 5_000), ("maxconn 8", 16), ("maxconn-per-source auto", 1_000)],
)
def test_one_client_address_has_a_quarter_of_the_connections_unless_told_otherwise(lines, of_source):
    found = settings(("    default_backend", f"    {lines}\n    default_backend"))
    assert found.frontends[0].maxconn_source == of_source
    for line, wanted in (("maxconn-per-source 0", 0), ("maxconn-per-source 90", 90)):
        found = settings(("    default_backend", f"    maxconn 900\n    {line}\n    default_backend"))
        assert found.frontends[0].maxconn_source == wanted


def test_one_client_address_may_connect_so_fast():
    assert settings().frontends[0].rate_source == 100
    found = settings(("    default_backend", "    rate-per-source 0\n    default_backend"))
    assert found.frontends[0].rate_source == 0


def test_as_many_relays_as_suit_the_host_is_the_default():
    assert settings(("    log stdout", "    relay-workers auto\n    log stdout")) == settings()
    assert settings().relay_workers == 0


def test_what_is_left_out_takes_its_default():
    text = SAMPLE
    for line in (
        "state-dir /var/lib/condor-gateway",
        "log stdout format json",
        "heartbeat 50ms",
        "lease 300ms",
        "balance elected",
        "forward proxy",
        "timeout connect 2s",
        "negotiator on-elected",
        "warm-standby on",
        "replicate accounting",
    ):
        assert f"    {line}\n" in text
        text = text.replace(f"    {line}\n", "")
    text = text.replace(" proto tcp,udp", "").replace(" inter 100ms fall 3 rise 2", "")
    found = load(text, "x.cfg", {}).settings
    assert found is not None
    assert (found.state_dir, found.log_format) == ("/var/lib/condor-gateway", LogFormat.JSON)
    assert (found.heartbeat_ms, found.lease_ms) == (50, 300)
    assert (found.on_partition, found.guard_dead_ms) == (OnPartition.HOLD, 30)
    assert found.frontends[0].binds[0].protocols == BOTH
    backend = found.backends[0]
    assert (backend.forward, backend.connect_ms, backend.queue_ms) == (Forward.PROXY, 2000, 5000)
    assert [backend.negotiator_on_elected, backend.warm_standby, backend.replicate_accounting] == [False] * 3
    server = backend.servers[0]
    assert (server.check, server.inter_ms, server.fall, server.rise) == (True, 2000, 3, 2)


def test_every_default_is_a_value_of_its_keyword():
    for section in SECTIONS.values():
        for keyword in section.keywords.values():
            options = [option.argument for option in keyword.options if option.argument]
            for argument in (*keyword.arguments, *options):
                if argument.default is not None:
                    read_value(argument, argument.default)


def test_defaults_of_the_language_are_those_of_the_values():
    fields = {field.name: field.default for field in msgspec.structs.fields(Backend)}
    options = {option.word: option.argument for option in SECTIONS["backend"].keywords["server"].options}
    for word in ("connect", "queue", "drain"):
        argument = SECTIONS["backend"].keywords[f"timeout {word}"].arguments[0]
        assert read_value(argument, argument.default) == fields[f"{word}_ms"]
    forward = SECTIONS["backend"].keywords["forward"].arguments[0]
    assert read_value(forward, forward.default) == fields["forward"]
    fields = {field.name: field.default for field in msgspec.structs.fields(Frontend)}
    for keyword, field in (
        ("timeout client", "client_ms"),
        ("timeout client-hello", "hello_ms"),
        ("maxconn", "maxconn"),
        ("rate-per-source", "rate_source"),
    ):
        argument = SECTIONS["frontend"].keywords[keyword].arguments[0]
        assert read_value(argument, argument.default) == fields[field]
    assert fields["maxconn_source"] == settings().frontends[0].maxconn_source
    fields = {field.name: field.default for field in msgspec.structs.fields(Server)}
    for word, field in (("inter", "inter_ms"), ("fall", "fall"), ("rise", "rise")):
        assert read_value(options[word], options[word].default) == fields[field]


@pytest.mark.parametrize(
    ("written", "time_ms"),
    [("400", 400), ("400ms", 400), ("400000us", 400), ("4s", 4000), ("1m", 60_000)],
)
def test_times_are_written_as_in_haproxy(written, time_ms):
    assert settings(("lease 300ms", f"lease {written}")).lease_ms == time_ms


def test_default_server_applies_to_the_servers_after_it():
    servers = (
        settings(
            ("default-server check inter 100ms fall 3 rise 2", "default-server check fall 7"),
            ("    server cm2", "    default-server inter 200ms\n    server cm2"),
            ("10.77.0.12:9618", "10.77.0.12:9618 fall 9"),
            ("    server cm3", "    default-server no-check rise 5\n    server cm3"),
        )
        .backends[0]
        .servers
    )
    assert [(s.check, s.inter_ms, s.fall, s.rise) for s in servers] == [
        (True, 2000, 7, 2),
        (True, 200, 9, 2),
        (False, 200, 7, 5),
    ]


@pytest.mark.parametrize(("written", "checked"), [("no-check", False), ("no-check check", True), ("", True)])
def test_the_last_word_on_a_check_wins(written, checked):
    assert settings(("10.77.0.12:9618", f"10.77.0.12:9618 {written}")).backends[0].servers[1].check is checked


def test_a_host_may_be_gateway_and_manager():
    found = settings(
        ("10.77.0.12:9619 manager", "10.77.0.12:9619 manager gateway"), ("holder gw1 gw2", "holder gw1 gw2 cm2")
    )
    assert found.peer("cm2").roles == GATEWAY | MANAGER


def test_holders_keep_the_order_of_preference():
    assert settings(("holder gw1 gw2", "holder gw2 gw1")).addresses[0].holders == ("gw2", "gw1")


@pytest.mark.parametrize(
    ("written", "protocols"), [("tcp", {Protocol.TCP}), ("udp", {Protocol.UDP}), ("udp,tcp", BOTH)]
)
def test_a_bind_names_its_protocols(written, protocols):
    assert settings(("proto tcp,udp", f"proto {written}")).frontends[0].binds[0].protocols == protocols


def test_one_address_and_port_may_be_split_by_protocol():
    found = settings(("proto tcp,udp", "proto tcp\n    bind pool-vip:9618 proto udp"))
    assert [bind.protocols for bind in found.frontends[0].binds] == [{Protocol.TCP}, {Protocol.UDP}]


def test_warm_standby_can_be_off_and_logs_for_people():
    found = settings(("warm-standby on", "warm-standby off"), ("format json", "format console"))
    assert not found.backends[0].warm_standby
    assert found.log_format is LogFormat.CONSOLE


def test_held_connections_have_a_timeout_of_their_own():
    backend = settings(("timeout connect 2s", "timeout queue 7s")).backends[0]
    assert (backend.connect_ms, backend.queue_ms) == (2000, 7000)


def test_the_environment_is_an_argument():
    changes = (("cluster physics-pool", 'cluster "${SITE}-pool"'),)
    assert settings(*changes, environment={"SITE": "chemistry"}).cluster == "chemistry-pool"
    assert errors(load_sample(*changes)) == ["variable 'SITE' is not set: set it, or write \"${SITE-default}\""]


def test_ipv6_peers_are_written_in_brackets_and_kept_in_one_spelling():
    text = SAMPLE
    for number in ("91", "92", "11", "12", "13"):
        text = text.replace(f"10.77.0.{number}:", f"[FD00:0::{number}]:")
    found = load(text, "x.cfg", {})
    assert errors(found) == []
    assert found.settings.peers[0].endpoint == Endpoint("fd00::91", 9619)


def test_two_peers_are_taken_when_they_say_what_a_partition_does():
    text = sample(
        ("    peer gw2 10.77.0.92:9619 gateway\n", ""),
        ("    peer cm2 10.77.0.12:9619 manager\n", ""),
        ("    peer cm3 10.77.0.13:9619 manager\n", ""),
        ("holder gw1 gw2", "holder gw1"),
        ("    server cm2 10.77.0.12:9618\n", ""),
        ("    server cm3 10.77.0.13:9618\n", ""),
    )
    assert "two peers cannot" in errors(load(text, "x.cfg", {}))[0]
    for policy in OnPartition:
        loaded = load(text.replace("lease 300ms", f"lease 300ms\n    on-partition {policy}"), "x.cfg", {})
        assert loaded.require().on_partition is policy


def test_two_peers_and_a_witness_need_no_word():
    text = sample(
        ("    peer gw2 10.77.0.92:9619 gateway\n", ""),
        ("    peer cm2 10.77.0.12:9619 manager\n", "    peer w1 10.77.0.12:9619 witness\n"),
        ("    peer cm3 10.77.0.13:9619 manager\n", ""),
        ("holder gw1 gw2", "holder gw1"),
        ("    server cm2 10.77.0.12:9618\n", ""),
        ("    server cm3 10.77.0.13:9618\n", ""),
    )
    found = load(text, "x.cfg", {}).require()
    assert found.on_partition is OnPartition.HOLD
    assert found.peer("w1").roles == {Role.WITNESS}


def test_the_patience_of_the_guard_is_a_setting():
    assert settings(("lease 300ms", "lease 300ms\n    guard-dead-time 100ms")).guard_dead_ms == 100


def test_line_ends_and_tabs_of_other_editors_are_taken():
    loaded = load(SAMPLE.replace("    ", "\t").replace("\n", "\r\n"), "x.cfg", {})
    assert (loaded.settings, loaded.diagnostics) == (load_sample().settings, ())


def test_several_mistakes_are_told_in_one_run_in_the_order_of_the_file():
    loaded = load_sample(
        ("cluster ", "clustr "),
        ("lease 300ms", "lease 300mss"),
        ("bind pool-vip", "bind pool-vap"),
        ("cm2 10.77.0.12:9618", "cm22 10.77.0.12:9618"),
    )
    assert [found.line for found in loaded.diagnostics] == [2, 9, 21, 31]
    assert len(errors(loaded)) == 4


def test_one_mistake_has_one_message():
    """What follows from a mistake is not told as well: a peer with a bad address is still a peer."""
    lines = SAMPLE.splitlines()
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        broken = "\n".join([*lines[:index], line + " 'open", *lines[index + 1 :]])
        assert len(errors(load(broken, "x.cfg", {}))) == 1, line


def test_a_warning_does_not_refuse_the_file():
    loaded = load_sample(("heartbeat 50ms", "heartbeat 150ms"))
    assert loaded.settings is not None
    assert len(warnings(loaded)) == 1
    assert loaded.require() is loaded.settings


def test_require_raises_with_every_diagnostic():
    loaded = load_sample(("cluster ", "clustr "), ("lease 300ms", "lease x"))
    with pytest.raises(ConfigError) as caught:
        loaded.require()
    assert caught.value.diagnostics == loaded.diagnostics
    assert str(caught.value) + "\n" == render_all(loaded.diagnostics)


def test_a_file_that_is_far_too_long_is_refused_unread():
    loaded = load("#" * 300_000, "x.cfg", {})
    assert len(errors(loaded)) == 1
    assert loaded.diagnostics[0].severity is Severity.ERROR


def test_the_number_of_mistakes_told_is_limited():
    loaded = load("global\n" + "    x y\n" * 5000, "x.cfg", ENVIRONMENT)
    assert len(loaded.diagnostics) == 101
    assert loaded.diagnostics[-1].message == "more than 100 mistakes: the rest is not shown"
