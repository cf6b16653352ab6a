"""Promises of `report`: a bundle that says what is in it, that no part can spoil, and that holds no secret."""

import base64
import json
import os
import secrets
import stat
import tarfile

import pytest

from gateway import cli
from gateway.console import bundle, bundle_parts
from gateway.console.bundle import Part, Unavailable, collect, contents
from gateway.console.redact import MARK, Redactor
from gateway.lab import cluster
from gateway.lab.topology import Topology

NOTHING = Redactor(())
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjb25kb3JAcG9vbCJ9.c2lnbmF0dXJl"


def texts(made):
    return {one.part.name: one.text or one.missing for one in made}


def failing(error):
    def make():
        raise error

    return make


def test_a_part_that_fails_is_a_line_and_the_others_are_there():
    parts = (
        Part("one", "the first", lambda: "fine"),
        Part("two", "the second", failing(Unavailable("there is none"))),
        Part("three", "the third", failing(ZeroDivisionError("a bug"))),
        Part("four", "the fourth", lambda: "fine too"),
    )
    made = collect(parts, lambda: NOTHING)
    assert texts(made) == {
        "one": "fine",
        "two": "there is none",
        "three": "ZeroDivisionError: a bug",
        "four": "fine too",
    }
    listing = contents(made, "head")
    assert "two    the second: not here: there is none" in listing
    assert "one    the first\n" in listing


def test_a_long_part_keeps_its_end_and_the_bundle_its_size(monkeypatch):
    monkeypatch.setattr(bundle, "PART_BYTES_MAX", 1_000)
    monkeypatch.setattr(bundle, "BUNDLE_BYTES_MAX", 5_000)
    made = collect([Part("log", "a log", lambda: "x" * 3_000 + "the end")], lambda: NOTHING)
    assert made[0].text.startswith("[the beginning was left out]")
    assert made[0].text.endswith("the end")
    assert len(made[0].text) < 1_100
    many = collect([Part(str(n), "big", lambda: "x" * 1_000) for n in range(9)], lambda: NOTHING)
    assert many[-1].missing == "the bundle is full"
    assert sum(len(one.text) for one in many) <= 6_000


def test_no_part_begins_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(bundle, "BUNDLE_S_MAX", -1.0)
    assert collect([Part("one", "x", lambda: pytest.fail("begun"))], lambda: NOTHING)[0].missing == "no time was left"


def test_a_known_secret_goes_in_every_form_that_a_text_may_have_it_in():
    key = secrets.token_bytes(32)
    redact = Redactor([f"key 1 {key.hex()}\nactive 1\n".encode(), b"s3cret pass phrase\n"]).redact
    for form in (key.hex(), key.hex().upper(), base64.b64encode(key).decode(), "s3cret pass phrase"):
        said = redact(f"before {form} after")
        assert form not in said
        assert said.startswith("before [redacted]")
        assert said.endswith("after")
    assert redact("key 1 is active") == "key 1 is active"


@pytest.mark.parametrize(
    "line",
    [
        f"token {TOKEN}",
        "Authorization: Bearer abcdefghijklmnop",
        "SEC_PASSWORD = hunter22",
        '  "admin_token": "hunter22"',
        "MY_API_KEY: hunter22",
        "proxy = http://me:hunter22@10.0.0.1/",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter22\n-----END RSA PRIVATE KEY-----",
        "digest 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    ],
)
def test_what_looks_like_a_secret_goes(line):
    said = NOTHING.redact(line)
    assert MARK in said
    for secret in (TOKEN, "hunter22", "abcdefghijklmnop", "00112233"):
        assert secret not in said


@pytest.mark.parametrize(
    "line",
    [
        "SEC_TOKEN_DIRECTORY = /etc/condor/tokens.d",
        "    key-file /etc/condor-gateway/cluster.key",
        '"unknown-token": 7,',
        "SEC_CREDENTIAL_SWEEP_DELAY = 3600",
        "link/ether 02:63:67:00:00:0b brd ff:ff:ff:ff:ff:ff",
    ],
)
def test_paths_numbers_and_addresses_stay(line):
    assert NOTHING.redact(line) == line


def test_the_digest_of_the_file_stays():
    digest = "ab" * 32
    assert Redactor((), open_values=(digest,)).redact(digest) == digest


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A host with a key, a token of HTCondor's and an HTCondor that prints both; returns the secrets and the file."""
    key, token = secrets.token_hex(32), TOKEN
    (tmp_path / "cluster.key").write_text(f"key 1 {key}\nactive 1\n")
    (tmp_path / "cluster.key").chmod(0o600)
    tokens = tmp_path / "tokens.d"
    tokens.mkdir()
    (tokens / "pool").write_text(token + "\n")
    program = tmp_path / "bin/condor_config_val"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho 'SEC_TOKEN_DIRECTORY = {tokens}'\necho ' # at: /etc/condor/x, line 1'\n"
        f"echo 'POOL_NOTE = {token}'\necho 'SOME_PASSWORD = hunter22'\necho 'NOTE = the key is {key}'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    text = cluster.gateway_config(Topology()).replace("/etc/condor-gateway/cluster.key", str(tmp_path / "cluster.key"))
    text = text.replace("/var/lib/condor-gateway", str(tmp_path / "state")).replace("dev eth0", "dev nothere0")
    file = tmp_path / "gateway.cfg"
    (tmp_path / "page.token").write_text("a-token-of-the-page\n")
    page = f"console\n    admin token-file {tmp_path}/page.token\n# a-token-of-the-page\n"
    (tmp_path / "more.cfg").write_text(page)
    file.write_text(f"{text}\n# once it was {key}\ninclude {tmp_path}/more.cfg\n")
    return file, (key, token, "hunter22", "a-token-of-the-page")


def test_a_planted_secret_is_nowhere_in_the_bundle(site, tmp_path, capsys):
    file, planted = site
    out = tmp_path / "report.tar.gz"
    assert cli.run_command_line(["report", "-f", str(file), "--node", "cm1", "-o", str(out)]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        members = {member.name.partition("/")[2]: archive.extractfile(member).read() for member in archive.getmembers()}
    for name, data in members.items():
        for secret in planted:
            assert secret.encode() not in data, name
            assert bytes.fromhex(secret) not in data if secret == planted[0] else True
    assert {"CONTENTS.txt", "doctor.txt", "doctor.json", "gateway.cfg", "condor.txt", "versions.txt"} <= set(members)
    assert f"key-file {tmp_path}/cluster.key".encode() in members["gateway.cfg"]
    assert b"# once it was [redacted]" in members["gateway.cfg"]
    assert f"# ---- included: {tmp_path}/more.cfg\nconsole\n".encode() in members["gateway.cfg"]
    assert b"SOME_PASSWORD = [redacted]" in members["condor-summary.txt"]
    assert json.loads(members["doctor.json"])["node"] == "cm1"
    said = capsys.readouterr().out
    assert "status.json" in said
    assert "not here: no condor-gateway answers" in said
    assert f"{out}: " in said


def test_a_bundle_is_not_written_over_another_file(site, tmp_path, capsys):
    file, _ = site
    (tmp_path / "report.tar.gz").write_text("mine")
    assert (
        cli.run_command_line(["report", "-f", str(file), "--node", "cm1", "-o", str(tmp_path / "report.tar.gz")]) == 1
    )
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "report.tar.gz").read_text() == "mine"


def test_an_invalid_file_still_makes_a_bundle(tmp_path):
    file = tmp_path / "gateway.cfg"
    file.write_text("global\n    nonsense\n")
    out = tmp_path / "report.tar.gz"
    assert cli.run_command_line(["report", "-f", str(file), "-o", str(out)]) == 0
    with tarfile.open(out) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    assert {"gateway.cfg", "doctor.txt", "host.txt"} <= names


def test_only_our_own_tables_are_shown(monkeypatch):
    listed = {
        "nftables": [
            {"table": {"family": "inet", "name": "customer"}},
            {"table": {"family": "netdev", "name": "condor-gateway-x"}},
        ]
    }
    asked = []

    def tool(argv, wait_s=5.0):
        asked.append(argv)
        return (json.dumps(listed) if "-j" in argv else "table netdev condor-gateway-x {}\n"), ""

    monkeypatch.setattr(bundle_parts, "tool", tool)
    said = bundle_parts._tables()
    assert "1 tables of other programs are not shown" in said
    assert [argv[-1] for argv in asked[1:]] == ["condor-gateway-x"]
