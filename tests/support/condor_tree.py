"""HTCondor's own condor_config_val, from the lab's root file system, over a configuration folder of the test's.

The folder is bound over the tree's in a mount namespace that ends with the command: the tree itself is never written.
"""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from gateway.lab import rootfs

NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def config_val(folder: Path, tmp: Path) -> Path:
    """Return a program on this machine that is condor_config_val, with `folder` as HTCondor's config.d."""
    tree = rootfs.build("trixie")
    program = tmp / "condor_config_val"
    bind = f"mount --bind {shlex.quote(str(folder))} {tree}/etc/condor/config.d"
    program.write_text(
        "#!/bin/sh\nexec unshare --mount --propagation private -- "
        f'sh -c \'{bind} && exec chroot {tree} /usr/bin/condor_config_val "$@"\' sh "$@"\n'
    )
    program.chmod(0o755)
    return program


def ask(program: Path, *names: str) -> dict[str, str]:
    """Return what HTCondor makes of some names."""
    macros = [f"$({name})" for name in names]
    done = subprocess.run([program, "-macro", *macros], capture_output=True, text=True, timeout=20, check=True)
    return dict(zip(names, (line.strip() for line in done.stdout.splitlines()), strict=True))
