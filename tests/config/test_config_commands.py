"""`check`, `diff` and `config` as they are typed: what they print, where, and with which exit status."""

import json
import subprocess
import sys

import pytest
from config_files import BROKEN, EXAMPLES, sample

from gateway.cli import run_command_line
from gateway.config import load
from gateway.config.keywords import SECTIONS

WARNED = ("timeout connect 2s", "timeout connect 2s\n    timeout queue 100ms")  # shorter than the lease


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a sample with changes to a file and returns its path."""

    def write_sample(*changes, name="gateway.cfg"):
        path = tmp_path / name
        path.write_text(sample(*changes), encoding="utf-8")
        return str(path)

    return write_sample


def test_a_valid_file_is_said_to_be_valid(write, capsys):
    path = write()
    assert run_command_line(["check", "-f", path]) == 0
    assert capsys.readouterr() == (f"{path}: valid\n", "")
    assert run_command_line(["check", "-q", "-f", path]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_invalid_file_is_answered_on_stderr_with_status_1(capsys):
    path = str(BROKEN / "many-mistakes.cfg")
    assert run_command_line(["check", "-f", path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (BROKEN / "many-mistakes.expected").read_text().replace("many-mistakes.cfg", path)


def test_a_warning_is_fatal_where_that_is_asked_for(write, capsys):
    path = write(WARNED)
    assert run_command_line(["check", "-f", path]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: valid\n"
    assert ": warning: " in err
    for option in ("-dW", "--warnings-fatal"):
        assert run_command_line(["check", option, "-f", path]) == 1
        assert capsys.readouterr().err.endswith(f"{path}: not valid, because warnings are fatal\n")


def test_a_file_that_serves_nobody_has_the_status_of_haproxy(write, capsys):
    frontend = "frontend matchmaker\n    bind pool-vip:9618 proto tcp,udp\n    default_backend managers\n"
    path = write((frontend, ""))
    assert run_command_line(["check", "-f", path]) == 2
    assert capsys.readouterr().out == f"{path}: valid, but there is no frontend: no client could connect\n"
    assert run_command_line(["check", "-f", str(EXAMPLES / "address-alone.cfg")]) == 0


def test_the_document_holds_every_finding(capsys):
    path = str(BROKEN / "many-mistakes.cfg")
    assert run_command_line(["check", "--json", "-f", path]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert {"schema": 1, "file": path, "valid": False}.items() <= document.items()
    assert len(document["diagnostics"]) == 5
    assert document["diagnostics"][0] == {
        "file": path,
        "line": 4,
        "column": 5,
        "severity": "error",
        "message": "unknown keyword 'clustr' in section 'global'",
        "hint": "did you mean 'cluster'?",
    }


def test_the_document_says_of_a_valid_file_that_it_is(write, capsys):
    path = write()
    assert run_command_line(["check", "--json", "-f", path]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "file": path, "valid": True, "diagnostics": []}


def test_a_file_that_is_not_there_is_a_document_too(tmp_path, capsys):
    path = str(tmp_path / "gateway.cfg")
    assert run_command_line(["check", "-f", path]) == 1
    assert (
        capsys.readouterr().err == f"condor-gateway: configuration file '{path}' does not exist: name it with -f FILE\n"
    )
    assert run_command_line(["check", "--json", "-f", path]) == 1
    (found,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (found["line"], found["severity"]) == (0, "error")
    assert "does not exist" in found["message"]


def test_a_check_needs_nothing_that_takes_long_to_import():
    code = (
        "import sys, gateway.cli as c; c.run_command_line(sys.argv[1:]); print(*sorted(sys.modules), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, "check", "-f", str(EXAMPLES / "minimal.cfg")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert not {"trio", "scapy", "structlog", "cryptography", "starlette"} & {*done.stderr.split()}


def test_files_are_included_from_beside_the_file(write, tmp_path, capsys):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.cfg").write_text("    option tcplog\n")
    (tmp_path / "conf.d" / "b.cfg").write_text("    maxconn 77\n    timeout client 0\n")
    path = write(("    default_backend", "    include conf.d/*.cfg\n    default_backend"))
    assert run_command_line(["check", "-f", path]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path}/conf.d/b.cfg:2:20: error: timeout client: '0'")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.cfg", "does not exist"),
        ("folder", "is no regular file"),
        ("pipe", "is no regular file"),
        ("latin.cfg", "is not UTF-8 text"),
    ],
)
def test_what_can_not_be_included_is_said_with_its_path(write, tmp_path, capsys, name, told):
    import os

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.cfg").write_bytes(b"# \xe9\n")
    path = write(("    default_backend", f"    include {name}\n    default_backend"))
    assert run_command_line(["check", "-f", path]) == 1
    assert f"include: '{name}' {told} ({tmp_path}/{name})" in capsys.readouterr().err


def test_two_files_are_compared_by_what_they_say(write, capsys):
    old, new = write(name="old.cfg"), write(("lease 300ms", "lease 400"), name="new.cfg")
    assert run_command_line(["diff", old, new]) == 0
    assert capsys.readouterr().out == "~ peers lan lease: 300ms -> 400ms\n"
    assert run_command_line(["diff", "--exit-code", old, new]) == 1
    assert run_command_line(["diff", "--exit-code", old, old]) == 0
    capsys.readouterr()
    assert run_command_line(["diff", "--json", old, new]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["needs"] == "reload"


def test_an_invalid_file_is_compared_with_nothing(write, capsys):
    path = write(("lease 300ms", "lease 1"))
    assert run_command_line(["diff", path, path]) == 1
    assert f"'{path}' is not valid, and says nothing to compare" in capsys.readouterr().err


def test_a_file_is_compared_with_what_the_node_has(write, tmp_path, capsys, monkeypatch):
    from gateway.control.configuration import describe

    running = load(sample(("state-dir /var/lib/condor-gateway", f"state-dir {tmp_path}")), "x", {}).require()
    path = write(("state-dir /var/lib/condor-gateway", f"state-dir {tmp_path}"), ("lease 300ms", "lease 400ms"))

    def asked(admin_socket, request, **_):
        assert (str(admin_socket), request) == (f"{tmp_path}/admin.sock", "config")
        return json.loads(json.dumps(describe(running, "x")))

    monkeypatch.setattr("gateway.console.admin.ask_admin", asked)
    assert run_command_line(["diff", "-f", path]) == 0
    assert capsys.readouterr().out == "~ peers lan lease: 300ms -> 400ms\n"


def test_without_a_node_there_is_nothing_to_compare(write, tmp_path, capsys):
    path = write(("state-dir /var/lib/condor-gateway", f"state-dir {tmp_path}"))
    assert run_command_line(["diff", "-f", path]) == 1
    assert "is it running on this host?" in capsys.readouterr().err


def test_what_a_file_says_is_shown_as_a_file_that_says_it(write, capsys):
    path = write()
    assert run_command_line(["config", "show", "-f", path]) == 0
    shown = capsys.readouterr().out
    assert load(shown, "shown.cfg", {}).settings == load(sample(), path, {}).settings
    assert "    timeout drain 2s\n" in shown


def test_each_line_is_shown_with_its_origin(write, capsys):
    path = write()
    assert run_command_line(["config", "show", "--origin", "-f", path]) == 0
    shown = capsys.readouterr().out
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in shown.splitlines()}
    assert (lines["lease 300ms"], lines["timeout drain 2s"]) == (f"{path}:9", "default")
    assert load(shown, "shown.cfg", {}).settings == load(sample(), path, {}).settings


def test_the_origins_are_a_document_too(write, capsys):
    path = write()
    assert run_command_line(["config", "show", "--json", "-f", path]) == 0
    document = json.loads(capsys.readouterr().out)
    (peers,) = (section for section in document["sections"] if section["section"] == "peers")
    lines = {(line["keyword"], line["key"]): line for line in peers["lines"]}
    assert lines["lease", ""] == {"keyword": "lease", "key": "", "value": "300ms", "origin": {"file": path, "line": 9}}
    assert lines["on-partition", ""]["origin"] is None


def test_an_invalid_file_is_not_shown(write, capsys):
    assert run_command_line(["config", "show", "-f", write(("lease 300ms", "lease 1"))]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "lease: '1'" in err


def test_every_keyword_is_explained_with_its_limits(capsys):
    assert run_command_line(["config", "keywords"]) == 0
    told = capsys.readouterr().out
    for kind, section in SECTIONS.items():
        assert f"\n{kind}" in f"\n{told}"
        for keyword in section.keywords.values():
            assert f"    {keyword.usage()[:40]}" in told
    assert max(len(line) for line in told.splitlines()) <= 100


def test_one_keyword_or_section_is_explained_alone(capsys):
    assert run_command_line(["config", "keywords", "lease"]) == 0
    assert capsys.readouterr().out == (
        "in peers:\n    lease TIME\n"
        "        how long a leader may act after a majority last heard it: the length of a takeover\n"
        "        TIME: 30ms to 60s, default 300ms\n"
    )
    assert run_command_line(["config", "keywords", "timeout", "client"]) == 0
    assert capsys.readouterr().out.startswith("in defaults:\n    timeout client TIME\n")
    assert run_command_line(["config", "keywords", "peers"]) == 0
    assert capsys.readouterr().out.startswith("peers NAME\n    who belongs to it and votes; once\n")


def test_a_keyword_that_is_none_is_guessed(capsys):
    assert run_command_line(["config", "keywords", "leese"]) == 1
    assert capsys.readouterr().err.endswith("no section and no keyword has the name 'leese'; did you mean 'lease'?\n")


def test_show_takes_its_file_by_an_option(write, capsys):
    assert run_command_line(["config", "show", write()]) == 1
    assert "the file is named with -f FILE" in capsys.readouterr().err
