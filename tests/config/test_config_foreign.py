"""Every word that administrators know from HAProxy, keepalived or HTCondor works here, or is answered by name."""

from pathlib import Path

import pytest
from config_files import errors, load_sample

from gateway.config.keywords import SECTIONS

TESTDATA = Path(__file__).parent / "testdata"


def names(file):
    """Return the names of a file of testdata, by the headings that they stand under."""
    found = {}
    heading = ""
    for line in (TESTDATA / file).read_text().splitlines():
        if line.endswith(":"):
            heading = line[:-1]
        elif not line.startswith("#"):
            found.setdefault(heading, []).append(line.strip())
    return found


HAPROXY = names("haproxy-keywords.txt")
# A line of the sample before which a line of that section stands.
PLACES = {
    "global": "    state-dir /var",
    "peers": "    heartbeat 50ms",
    "address": "    ip 10.77",
    "frontend": "    bind pool-vip",
    "backend": "    balance elected",
}


def said_of(section, line):
    """Return the messages about a line that is added to a section of the sample."""
    place = PLACES[section]
    loaded = load_sample((place, f"    {line}\n{place}"))
    return [found.message for found in loaded.diagnostics if found.source == f"    {line}"]


def is_answered(line, messages):
    first, second = line.split()[:2]
    unknown = ("unknown keyword", "unknown section", f"unknown {first} '{second}'; did" if second == "x" else "unknown")
    return not any(message.startswith(unknown) for message in messages)


def unanswered(section, listed):
    lines = [f"{word} x" for word in listed]
    return [line for line in lines if not is_answered(line, said_of(section, line))]


@pytest.mark.parametrize("section", ["frontend", "backend", "global"])
def test_every_keyword_of_haproxys_manual_works_or_is_answered(section):
    listed = HAPROXY["global" if section == "global" else "proxy"]
    assert len(listed) > 100
    assert unanswered(section, listed) == []


def test_every_section_of_haproxys_manual_works_or_is_answered():
    for word in HAPROXY["section"]:
        told = errors(load_sample(("frontend matchmaker", f"{word} x\nfrontend matchmaker")))
        assert word in SECTIONS or f"section '{word}' is known in HAProxy, not here" in told[0], word


@pytest.mark.parametrize(
    ("kind", "line"), [("bind", "bind pool-vip:9700 {} x"), ("server", "server cm9 10.77.0.19:9618 {} x")]
)
def test_every_option_of_haproxys_manual_works_or_is_answered(kind, line):
    section = "frontend" if kind == "bind" else "backend"
    known = {option.word for option in SECTIONS[section].keywords[kind].options}
    assert len(HAPROXY[kind]) > 75
    for word in HAPROXY[kind]:
        told = [message for message in said_of(section, line.format(word)) if f"'{word}'" in message]
        assert word in known or any("is known in HAProxy, not here" in message for message in told), word


def test_haproxys_peers_section_is_answered_too():
    listed = ["bind", "default-bind", "log", "table", "shards", "disabled", "enabled", "server", "default-server"]
    assert unanswered("peers", listed) == []


@pytest.mark.parametrize("section", ["address", "global"])
def test_every_keyword_of_keepalived_is_answered(section):
    listed = names("keepalived-keywords.txt")[""]
    assert len(listed) > 300
    assert unanswered(section, listed) == []


def test_a_block_of_keepalived_is_answered_by_its_first_line_alone():
    block = "vrrp_instance VI_1 {\n    state MASTER\n    virtual_ipaddress {\n        10.0.0.1/24\n    }\n}\n"
    assert errors(load_sample(("frontend matchmaker", block + "frontend matchmaker"))) == [
        "section 'vrrp_instance' is known in keepalived, not here: "
        "write an address section and, for its peers, a peers section"
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("HAD_LIST = cm1:9614, cm2:9614", "'HAD_LIST' is known in HTCondor, not here: write a 'peer' line"),
        ("REPLICATION_INTERVAL=300", "'REPLICATION_INTERVAL' is known in HTCondor, not here: 'replicate accounting'"),
        ("MASTER.HAD_CONNECTION_TIMEOUT = 2", "'MASTER.HAD_CONNECTION_TIMEOUT' is known in HTCondor, not here: write"),
        ("DAEMON_LIST = MASTER, HAD", "'DAEMON_LIST' is known in HTCondor, not here: it belongs into HTCondor's own"),
        (
            "CONDOR_HOST = 10.77.0.100",
            "'CONDOR_HOST' is known in HTCondor, not here: it is the address that 'ip'",
        ),
    ],
)
@pytest.mark.parametrize("indent", ["", "    "])
def test_a_line_of_htcondors_configuration_is_answered(line, told, indent):
    (message,) = errors(load_sample(("    negotiator on-elected", f"{indent}{line}\n    negotiator on-elected")))
    assert message.startswith(told)


def test_an_answer_is_one_sentence_without_a_full_stop():
    from gateway.config import foreign, foreign_haproxy, foreign_options, foreign_others

    tables = [
        foreign_haproxy.KEYWORDS,
        foreign_haproxy.OPTIONS,
        foreign_haproxy.SECTIONS,
        foreign_others.CONDOR_KEYWORDS,
    ]
    tables += [foreign_others.KEEPALIVED_KEYWORDS, foreign._OURS, *foreign_options.LINE_OPTIONS.values()]
    for table in tables:
        for word, answer in table.items():
            assert answer[0].islower(), word
            assert not answer.endswith("."), word
            assert answer == answer.strip(), word


@pytest.mark.parametrize("kind", SECTIONS)
def test_no_keyword_of_the_language_is_hidden_by_an_answer(kind):
    from gateway.config import foreign

    for name, keyword in SECTIONS[kind].keywords.items():
        words = name.split()
        assert len(words) == 1 or foreign.second_answer(*words[:2]) is None, name
        for option in keyword.options:
            assert foreign.option_answer(name, option.word) is None, f"{name} {option.word}"
