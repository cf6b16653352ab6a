"""Others' programs: the machine's own, or Debian's packages fetched and unpacked below build/, never installed.

Installing them would start their services on the machine, now and after its next boot.
"""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.plane.loadgen import ROOT

FOLDER = ROOT / "build/bench/contenders"
PACKAGES = {"haproxy": ["haproxy"], "nginx": ["nginx", "libnginx-mod-stream"], "socat": ["socat"]}
FILES = {"haproxy": "usr/sbin/haproxy", "nginx": "usr/sbin/nginx", "socat": "usr/bin/socat"}
MODULE = "usr/lib/nginx/modules/ngx_stream_module.so"
FETCH_S_MAX = 300


class MissingError(Exception):
    """A program is not to be had."""


@dataclass(frozen=True)
class Program:
    """Where a program is, and what it needs in its environment."""

    path: Path
    root: Path  # below which its other files are
    environment: dict[str, str] = field(default_factory=dict)


@functools.cache
def program(name: str) -> Program:
    """Return where a program is, fetched if needed.

    Raises:
        MissingError: neither is it here, nor can it be fetched; says why.
    """
    for root in (Path("/"), FOLDER):
        if _is_below(root, name):
            return _program(root, name)
    try:
        _fetch(PACKAGES[name])
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingError(f"{name}: not installed, and Debian's packages cannot be fetched: {error}") from error
    if not _is_below(FOLDER, name):
        raise MissingError(f"{name}: Debian's packages {' '.join(PACKAGES[name])} do not hold it")
    return _program(FOLDER, name)


def _is_below(root: Path, name: str) -> bool:
    return (root / FILES[name]).exists() and (name != "nginx" or (root / MODULE).exists())


def _program(root: Path, name: str) -> Program:
    folders = [path for path in (root / "usr/lib", root / "lib") if path.exists()] if root == FOLDER else []
    libraries = ":".join(str(path.parent) for folder in folders for path in sorted(folder.glob("*/*.so*"))[:1])
    return Program(root / FILES[name], root, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def _fetch(packages: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise OSError("this is no Debian machine")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    archives, empty = FOLDER / "archives", FOLDER / "empty"
    archives.mkdir(parents=True, exist_ok=True)
    (empty / "partial").mkdir(parents=True, exist_ok=True)
    # What this machine lacks, dependencies included; apt names only what is still to fetch, so its archive is empty.
    lacking = ["apt-get", "-qq", "-y", "--no-install-recommends", "--print-uris", f"-oDir::Cache::archives={empty}"]

    def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=archives, capture_output=True, text=True, timeout=FETCH_S_MAX, env=environment, check=check
        )

    asked = run(*lacking, "install", *packages, check=False)
    if asked.returncode:  # the package lists were never fetched, or are too old
        run("apt-get", "-qq", "update")
        asked = run(*lacking, "install", *packages)
    # 'URI' FILE SIZE HASH, a line each
    names = [line.split()[1].split("_")[0] for line in asked.stdout.splitlines() if line.startswith("'")]
    run("apt-get", "-qq", "download", *sorted({*names, *packages}))
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, FOLDER], capture_output=True, timeout=60, check=True)
