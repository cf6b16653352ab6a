"""The gateway's Python libraries for another Python than this one: wheels from the package index, in a folder."""

import importlib.metadata
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

from gateway.lab.errors import LabError

FETCH_S_MAX = 600


def dependencies() -> list[str]:
    """The gateway's run-time dependencies as its project file states them (or, installed, its metadata)."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.exists():
        return list(tomllib.loads(project.read_text())["project"]["dependencies"])
    stated = importlib.metadata.requires("condor-gateway") or []
    return [line for line in stated if "extra ==" not in line]


def install_libraries(folder: Path, version: str) -> None:
    """Lay the dependencies, and theirs, into `folder`, for CPython `version` ("3.13") on this machine's architecture.

    Raises:
        LabError: one can't be had.
    """
    flat, machine = version.replace(".", ""), platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (34, 28, 17)]
    platforms += [f"manylinux2014_{machine}", f"manylinux1_{machine}", "any"]
    abis = [f"cp{flat}", "abi3", "none"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    pip += ["--target", str(folder), "--no-compile", "--root-user-action=ignore"]
    pip += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    pip += [f"--platform={name}" for name in platforms] + [f"--abi={name}" for name in abis]
    try:
        done = subprocess.run([*pip, *dependencies()], capture_output=True, text=True, timeout=FETCH_S_MAX, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(
            f"fetching the gateway's Python libraries took longer than {FETCH_S_MAX} s: is the index up?"
        ) from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
        raise LabError(f"the gateway's Python libraries for Python {version} cannot be had: {said[0]}")
