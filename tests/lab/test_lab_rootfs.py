"""Promises of the lab's root file system: built once, whole or not at all, of what its recipe says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.lab import packages, rootfs
from gateway.lab.errors import LabError


def test_a_suite_without_htcondor_is_refused():
    with pytest.raises(LabError, match="no HTCondor in Debian 'bookworm': use one of trixie, sid"):
        rootfs.build("bookworm")


def test_a_change_of_the_recipe_is_another_tree(monkeypatch):
    before = rootfs.tree_path("trixie")
    assert rootfs.tree_path("sid") != before
    monkeypatch.setattr(rootfs, "dependencies", lambda: ["something>=1"])
    assert rootfs.tree_path("trixie") != before


def test_the_dependencies_are_those_of_the_project_file():
    assert any(line.startswith("trio") for line in rootfs.dependencies())
    assert not any(line.startswith("pytest") for line in rootfs.dependencies())


def test_building_without_root_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root: run this as root"):
        rootfs.build("trixie")


def test_a_build_that_fails_leaves_no_tree(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def break_down(root, *_):
        (root / "half").write_text("built")
        raise LabError("the mirror went away")

    monkeypatch.setattr(rootfs, "_build_into", break_down)
    with pytest.raises(LabError, match="the mirror went away"):
        rootfs.build("trixie")
    assert [path.name for path in (tmp_path / "condor-gateway").iterdir()] == ["rootfs.lock"]


def test_what_a_killed_builder_left_is_removed_by_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rootfs, "_build_into", lambda root, *_: (root / "whole").write_text("built"))
    left = tmp_path / "condor-gateway/building-trixie-left"
    left.mkdir(parents=True)
    tree = rootfs.build("trixie")
    assert (tree / "whole").exists()
    assert not left.exists()


def test_a_tree_that_is_there_is_not_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rootfs.tree_path("trixie").mkdir(parents=True)
    monkeypatch.setattr(rootfs, "_build_into", lambda *_: pytest.fail("built again"))
    assert rootfs.build("trixie") == rootfs.tree_path("trixie")


def test_a_machine_without_a_debian_mirror_is_told_so(monkeypatch):
    monkeypatch.setattr(packages, "_run", lambda *_, **__: "nodistro main https://example.org/x\n")
    with pytest.raises(LabError, match="no Debian mirror among this machine's apt sources"):
        packages.mirror_uri()


def test_a_mirror_of_security_updates_is_not_taken_for_the_archive(monkeypatch):
    listing = "bookworm-security main http://example.org/security/\nbookworm main http://example.org/debian/\n"
    monkeypatch.setattr(packages, "_run", lambda *_, **__: listing)
    monkeypatch.setattr(packages, "_codename", lambda: "bookworm")
    assert packages.mirror_uri() == "http://example.org/debian"


@pytest.mark.pool
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.timeout(280)
def test_the_tree_runs_htcondor_and_the_gateways_libraries():
    tree = rootfs.build("trixie")

    def inside(*argv):
        done = subprocess.run(["chroot", tree, *argv], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "$CondorVersion: " in inside("condor_version")
    names = "trio, msgspec, cryptography, pyroute2, scapy, structlog"
    script = f"import sys; sys.path.insert(0, {rootfs.LIBRARY!r}); import {names}; print('all')"
    assert inside("python3", "-c", script) == "all\n"
    assert f"uid={rootfs.USER_ID}" in inside("id", rootfs.USER)
    # What HTCondor would call to write sysctls of the machine that all hosts share does nothing.
    assert (tree / "usr/libexec/condor/linux_kernel_tuning").read_text() == "#!/bin/sh\nexit 0\n"


def test_the_builder_can_be_run_by_itself():
    argv = [sys.executable, "-m", "gateway.lab.rootfs", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0
    assert "--suite" in done.stdout
