"""`defaults`, `listen`, `no option`, and what a server line takes from default-server: as in HAProxy."""

import pytest
from config_files import SAMPLE, errors, load_sample, warnings

DEFAULTS = "defaults\n    mode tcp\n    log global\n    option tcplog\n    maxconn 2000\n    timeout connect 1s\n\n"
FRONTEND = "frontend matchmaker"
LISTEN = """\
listen pool
    bind pool-vip:9618 proto tcp,udp
    option condor-check
    option tcplog
    timeout connect 2s
    timeout client 2h
    default-server check inter 100ms fall 3 rise 2
    server cm1 10.77.0.11:9618
    server cm2 10.77.0.12:9618
    server cm3 10.77.0.13:9618
    negotiator on-elected
    warm-standby on
    replicate accounting
"""
REST = SAMPLE[SAMPLE.index(FRONTEND) :]


def test_defaults_hold_where_a_section_says_nothing_itself():
    found = load_sample((FRONTEND, DEFAULTS + FRONTEND)).require()
    assert (found.frontends[0].tcplog, found.frontends[0].maxconn) == (True, 2000)
    assert found.backends[0].connect_ms == 2000  # said by the backend


def test_defaults_hold_for_what_comes_after_them():
    after = load_sample(("    replicate accounting\n", f"    replicate accounting\n{DEFAULTS}"))
    assert not after.require().frontends[0].tcplog
    assert warnings(after) == [
        "defaults: no frontend or backend takes from these defaults: they hold for the sections after them"
    ]


def test_later_defaults_replace_earlier_ones_and_add_nothing_to_them():
    second = "defaults\n    timeout client 2h\n"
    found = load_sample((FRONTEND, DEFAULTS + second + FRONTEND)).require()
    assert (found.frontends[0].tcplog, found.frontends[0].client_ms) == (False, 7_200_000)


def test_named_defaults_are_taken_from_by_name_and_from_each_other():
    named = "defaults logged\n    option tcplog\ndefaults long from logged\n    timeout client 2h\n"
    named += "defaults\n    maxconn 9\n"
    found = load_sample((FRONTEND, f"{named}{FRONTEND} from long")).require()
    assert (found.frontends[0].tcplog, found.frontends[0].client_ms) == (True, 7_200_000)
    assert found.frontends[0].maxconn == 4000


def test_a_name_that_no_defaults_have_is_refused():
    named = "defaults logged\n    option tcplog\n"
    assert errors(load_sample((FRONTEND, f"{named}{FRONTEND} from loged"))) == [
        "frontend 'matchmaker': no defaults above have the name 'loged'; did you mean 'logged'?"
    ]
    assert errors(load_sample((FRONTEND, f"{FRONTEND} from x"))) == [
        "frontend 'matchmaker': no defaults above have the name 'x': none has a name before this"
    ]
    assert errors(load_sample((FRONTEND, f"{FRONTEND} from"))) == [
        "'from' needs the name of a defaults section after it"
    ]


def test_an_option_of_the_defaults_can_be_taken_back():
    found = load_sample((FRONTEND, f"{DEFAULTS}{FRONTEND}\n    no option tcplog")).require()
    assert not found.frontends[0].tcplog
    assert errors(load_sample((FRONTEND, f"{FRONTEND}\n    option tcplog\n    no option tcplog"))) == [
        "second 'option tcplog': the first is on line 21"
    ]
    assert errors(load_sample((FRONTEND, f"{FRONTEND}\n    no maxconn"))) == [
        "'no' takes an option back, as in 'no option condor-check'; leave out other lines"
    ]
    assert errors(load_sample((FRONTEND, f"{FRONTEND}\n    no option tcplgo"))) == [
        "unknown option 'tcplgo'; did you mean 'tcplog'?"
    ]


def test_what_is_wrong_in_defaults_is_told_where_it_stands():
    loaded = load_sample((FRONTEND, f"defaults\n    timeout client 1m\n{FRONTEND}"))
    (found,) = loaded.diagnostics
    assert (found.line, found.source) == (21, "    timeout client 1m")
    assert found.message.startswith("frontend 'matchmaker': timeout client 60s closes connections")


@pytest.mark.parametrize("line", ["bind pool-vip:1", "server cm1 10.77.0.11:9618", "replicate file /etc/x"])
def test_what_is_of_one_section_does_not_stand_in_defaults(line):
    (told,) = errors(load_sample((FRONTEND, f"defaults\n    {line}\n{FRONTEND}")))
    assert "not of 'defaults': move it there" in told


def test_the_backend_of_all_frontends_may_stand_in_defaults():
    moved = load_sample(
        (FRONTEND, f"defaults\n    default_backend managers\n{FRONTEND}"), ("    default_backend managers\n\n", "")
    )
    assert moved.diagnostics == ()


def test_a_listen_section_is_a_frontend_and_its_backend():
    loaded = load_sample((REST, LISTEN))
    assert loaded.diagnostics == ()
    found, plain = loaded.require(), load_sample().require()
    (frontend,), (backend,) = found.frontends, found.backends
    assert (frontend.name, frontend.backend, backend.name) == ("pool", "pool", "pool")
    assert (frontend.tcplog, frontend.client_ms, frontend.binds) == (True, 7_200_000, plain.frontends[0].binds)
    assert backend.servers == plain.backends[0].servers
    assert backend.negotiator_on_elected


def test_a_listen_section_is_spoken_of_as_such():
    assert errors(load_sample((REST, LISTEN.replace("    bind pool-vip:9618 proto tcp,udp\n", "")))) == [
        "listen 'pool' needs 'bind': bind ADDRESS:PORT [proto PROTOCOLS]"
    ]
    (told,) = errors(load_sample((REST, f"{LISTEN}backend pool\n    server cm1 10.77.0.11:9618\n")))[:1]
    assert "listen 'pool' on line 20 has this name" in told or "is already one of listen 'pool'" in told


def test_a_listen_section_takes_from_defaults():
    found = load_sample((REST, DEFAULTS + LISTEN.replace("    option tcplog\n", ""))).require()
    assert found.frontends[0].tcplog
    assert found.frontends[0].maxconn == 2000


def test_backups_are_wanted_after_all_others():
    found = load_sample(("cm1 10.77.0.11:9618", "cm1 10.77.0.11:9618 backup")).require()
    assert [server.name for server in found.backends[0].servers] == ["cm2", "cm3", "cm1"]
    both = load_sample(("default-server check", "default-server backup check"), ("0.13:9618", "0.13:9618 no-backup"))
    assert [server.name for server in both.require().backends[0].servers] == ["cm3", "cm1", "cm2"]


def test_a_disabled_server_is_no_candidate_but_its_line_is_checked():
    found = load_sample(("cm2 10.77.0.12:9618", "cm2 10.77.0.12:9618 disabled"))
    assert found.diagnostics == ()
    assert [server.name for server in found.require().backends[0].servers] == ["cm1", "cm3"]
    assert errors(load_sample(("cm2 10.77.0.12:9618", "cm9 10.77.0.12:9618 disabled"))) != []


def test_a_backend_needs_a_server_that_is_not_disabled():
    assert errors(load_sample(("default-server check", "default-server disabled check"))) == [
        "backend 'managers': every server is disabled, nobody could be elected: leave one enabled"
    ]
    one = load_sample(("default-server check", "default-server disabled check"), ("0.12:9618", "0.12:9618 enabled"))
    assert warnings(one) == ["server 'cm2' is alone in backend 'managers': nothing takes over from it"]


def test_a_description_is_kept_as_it_is_written():
    found = load_sample(
        ("    cluster", "    description 'Physics, building 3' since 2026\n    cluster"),
        ("    balance", "    description managers of the pool\n    balance"),
    ).require()
    assert found.description == "Physics, building 3 since 2026"
    assert found.backends[0].description == "managers of the pool"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "mode http",
            "mode: 'http' is known in HAProxy, not here: HTCondor's clients do not speak HTTP, write 'mode tcp'",
        ),
        ("log stdout", "log: 'stdout' stands in the global section, for all: write 'log global'"),
        (
            "log 127.0.0.1",
            "log: '127.0.0.1' is known in HAProxy, not here: write 'log stdout', systemd's journal takes it",
        ),
    ],
)
def test_lines_that_say_what_is_so_anyway_are_taken_and_no_others(line, told):
    assert load_sample(
        (FRONTEND, f"{FRONTEND}\n    {line.split()[0]} {'tcp' if 'mode' in line else 'global'}")
    ).settings
    assert errors(load_sample((FRONTEND, f"{FRONTEND}\n    {line}")))[0].startswith(told)
