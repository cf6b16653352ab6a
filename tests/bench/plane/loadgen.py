"""The load generator: compiled when its source is newer, run in a namespace, answering with a line of JSON."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = Path(__file__).parent / "loadgen"
BINARY = ROOT / "build/bench/load"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class NoCompilerError(Exception):
    """There is no C compiler here."""


def binary() -> Path:
    """Return the compiled load generator.

    Raises:
        NoCompilerError: this machine has none.
    """
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(path.stat().st_mtime for path in (*sources, *SOURCES.glob("*.h")))
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompilerError("the load generator is C: install the Debian package gcc (with libc6-dev)")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    ours = BINARY.with_suffix(f".{os.getpid()}")  # two at a time do not write one file
    subprocess.run([compiler, *FLAGS, "-o", ours, *sources], check=True, timeout=120)
    ours.rename(BINARY)
    return BINARY
