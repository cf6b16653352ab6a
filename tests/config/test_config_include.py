"""`include`: lines of other files in their places, and what may not be included."""

import pytest
from config_files import SAMPLE, errors, sample, warnings

from gateway.config import Unreadable, load, render_all
from gateway.config.limits import INCLUDED_FILES_MAX, INCLUDES_DEEP_MAX, TEXT_CHARACTERS_MAX

PEERS = "".join(f"    {line.strip()}\n" for line in SAMPLE.splitlines() if line.strip().startswith("peer "))
MANAGERS = SAMPLE[SAMPLE.index("\nbackend managers") + 1 :]


def load_files(text, environment=None, **files):
    """Load a text that may include the others, each called by its name with `.cfg`; a pattern is `*.cfg`."""
    known = {f"/etc/g/{name}.cfg": content for name, content in files.items()}

    def reader(path):
        if path == "/etc/g/*.cfg":
            return tuple(sorted(known.items()))
        if path not in known:
            raise Unreadable("does not exist")
        return ((path, known[path]),)

    return load(text, "/etc/g/gateway.cfg", environment or {}, reader)


def test_included_lines_stand_where_the_include_stands():
    text = sample((PEERS, "    include peers.cfg\n"), (MANAGERS, "include managers.cfg\n"))
    loaded = load_files(text, peers=PEERS, managers=MANAGERS)
    assert loaded.diagnostics == ()
    assert loaded.settings == load(SAMPLE, "x.cfg", {}).settings


def test_a_finding_names_the_file_and_the_line_of_it():
    text = sample((PEERS, "    include peers.cfg\n"))
    loaded = load_files(text, peers=PEERS.replace("10.77.0.92", "10.77.0.91.5"))
    assert render_all(loaded.diagnostics) == (
        "/etc/g/peers.cfg:2:14: error: peer 'gw2': '10.77.0.91.5' is not an IP address: "
        "names are not looked up here, because DNS may be what is down\n"
        "    peer gw2 10.77.0.91.5:9619 gateway\n"
        "             ^\n"
    )


def test_lines_after_an_include_keep_their_numbers():
    text = sample((PEERS, "    include peers.cfg\n"), ("warm-standby on", "warm-standby of"))
    (found,) = load_files(text, peers=PEERS).diagnostics
    assert (found.file, found.source) == ("/etc/g/gateway.cfg", "    warm-standby of")
    assert text.splitlines()[found.line - 1] == found.source


def test_a_line_that_another_finding_names_is_told_with_its_file():
    text = sample((PEERS, "    include peers.cfg\n    peer gw1 10.77.0.99:9619 gateway\n"))
    assert errors(load_files(text, peers=PEERS)) == ["second peer 'gw1': the first is on line 1 of /etc/g/peers.cfg"]


def test_the_same_file_in_two_places_is_no_way_around_a_rule():
    bind = "    bind pool-vip:9618\n"
    twice = f"frontend second\n    include bind.cfg\n    default_backend managers\n\n{MANAGERS}"
    text = sample(("    bind pool-vip:9618 proto tcp,udp\n", "    include bind.cfg\n"), (MANAGERS, twice))
    (told,) = errors(load_files(text, bind=bind))
    assert "is already bound by frontend 'matchmaker' on line 1 of /etc/g/bind.cfg" in told


def test_a_pattern_is_every_file_in_the_order_of_the_names():
    text = sample((PEERS, "    include *.cfg\n"))
    lines = PEERS.splitlines(keepends=True)
    loaded = load_files(text, b="".join(lines[2:]), a="".join(lines[:2]))
    assert [peer.name for peer in loaded.require().peers] == ["gw1", "gw2", "cm1", "cm2", "cm3"]


def test_a_pattern_without_a_file_is_said_aloud():
    assert warnings(load_files(f"{SAMPLE}include *.cfg\n")) == ["include: '*.cfg' matches no file"]


def test_a_variable_chooses_the_file():
    text = sample((PEERS, '    include "${SITE}.cfg"\n'))
    assert load_files(text, {"SITE": "north"}, north=PEERS).diagnostics == ()


def test_a_file_that_can_not_be_read_is_one_error_and_hides_no_other():
    text = sample((MANAGERS, "include managers.cfg\n"), ("heartbeat 50ms", "heartbeat 5ms"))
    assert errors(load_files(text)) == [
        "heartbeat: '5ms' is below 10ms: a process that sleeps is woken up to 14 ms late (measured)",
        "include: 'managers.cfg' does not exist",
    ]


def test_what_may_stand_in_a_file_that_can_not_be_read_is_not_missed():
    assert errors(load_files(sample((PEERS, "    include peers.cfg\n")))) == ["include: 'peers.cfg' does not exist"]
    assert errors(load_files("global\n    include rest.cfg\n")) == ["include: 'rest.cfg' does not exist"]


def test_what_is_missing_is_missing_in_the_file_that_includes():
    *_, missing = load_files("\ninclude a.cfg", a=SAMPLE[: SAMPLE.index("peers lan")]).diagnostics
    assert (missing.file, missing.line, missing.column) == ("/etc/g/gateway.cfg", 2, 1)
    assert missing.message.startswith("no section 'address NAME'")


def test_without_a_reader_nothing_is_included():
    assert errors(load("include /etc/passwd\n", "x", {})) == [
        "include: '/etc/passwd' can't be included here: this text is no file"
    ]


@pytest.mark.parametrize(("line", "column"), [("include", 9), ("include a.cfg b.cfg", 15)])
def test_include_takes_one_path(line, column):
    (found,) = load_files(f"{SAMPLE}{line}\n").diagnostics
    assert (found.message, found.column) == ("include takes one path or pattern: include PATH", column)


def test_a_file_does_not_include_itself():
    assert errors(load_files(f"{SAMPLE}include a.cfg\n", a="include b.cfg\n", b="include a.cfg\n")) == [
        "include: '/etc/g/a.cfg' includes this file: a file can't be a part of itself"
    ]
    assert errors(load_files(f"{SAMPLE}include a.cfg\n", a="include ./a.cfg\n")) != []


def test_files_are_limited_in_depth_number_and_length():
    deep = {f"f{n}": f"include f{n + 1}.cfg\n" for n in range(INCLUDES_DEEP_MAX)} | {f"f{INCLUDES_DEEP_MAX}": "\n"}
    assert "is included 9 files deep, and 8 is the limit" in errors(load_files(f"{SAMPLE}include f0.cfg\n", **deep))[0]
    many = f"{SAMPLE}{'include a.cfg' + chr(10)}" * 1 + "include a.cfg\n" * (INCLUDED_FILES_MAX - 1)
    assert errors(load_files(many, a="\n")) == []
    assert errors(load_files(f"{many}include a.cfg\n", a="\n")) == ["include: more than 64 files are included"]
    half = "#\n" * (TEXT_CHARACTERS_MAX // 4)
    (told,) = errors(load_files(f"{SAMPLE}include a.cfg\ninclude a.cfg\n", a=half))
    assert told.startswith("with what it includes longer than 262144 characters")


def test_an_include_that_is_misspelt_is_recognised():
    assert "; did you mean 'include'?" in errors(load_files(f"inlcude a.cfg\n{SAMPLE}"))[0]
