"""What provisioning brings to every machine, in one file: the package, the gateway's file, and this lab's own keys.

Keys are made anew for every lab, below `build/vagrant`, and end with it.
"""

import io
import secrets
import sys
import tarfile
from pathlib import Path

import trio

from gateway.lab import cluster, condor
from gateway.lab.errors import LabError
from gateway.lab.machines.inventory import FOLDER, ROOT
from gateway.lab.machines.plan import Plan
from gateway.lab.machines.running import Progress, run

FILE = FOLDER / "payload.tar"
SSH_KEY = FOLDER / "ssh_key"
PACKAGES = FOLDER / "package"

BUILD_S_MAX = 600
COMMAND_S_MAX = 60


async def make(plan: Plan, progress: Progress) -> Path:
    """Make the keys and the file; return its path.

    Raises:
        LabError: the gateway's file is not there or not valid, or the package can't be built.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    await _make_ssh_key()
    progress("building the gateway's package")
    package = await _build_package()
    contents = {
        "condor-gateway.deb": await trio.Path(package).read_bytes(),
        "gateway.cfg": await _config(Path(plan.config)),
        "cluster.key": cluster.key_file(secrets.token_bytes(32)).encode(),
        "POOL": condor.signing_key_file(secrets.token_bytes(32)),
        "ssh_key.pub": await trio.Path(f"{SSH_KEY}.pub").read_bytes(),
    }
    for role in ("submit", "execute"):  # for hosts that have no gateway to ask
        contents[f"{role}.config"] = await _condor_config(plan.config, role)
    write(FILE, contents)
    return FILE


def write(file: Path, contents: dict[str, bytes]) -> None:
    """Write a payload, readable by its owner alone."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o600
            tar.addfile(entry, io.BytesIO(data))


async def _make_ssh_key() -> None:
    for file in (SSH_KEY, Path(f"{SSH_KEY}.pub")):
        file.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "condor-gateway-vm", "-f", str(SSH_KEY)]
    await run(argv, what="making the key for ssh", timeout_s=COMMAND_S_MAX)


async def _build_package() -> str:
    said = await run(
        [sys.executable, "-m", "gateway.debian.build", "--release", "trixie", "--compression", "gzip", "-o", str(PACKAGES)],
        what="building the package", timeout_s=BUILD_S_MAX, environment={"PYTHONPATH": str(ROOT)}, log="package",
    )  # fmt: skip
    return said.strip().splitlines()[-1]


async def _config(file: Path) -> bytes:
    try:
        return await trio.Path(file).read_bytes()
    except OSError as error:
        raise LabError(f"LAB_CONFIG={file}: {error.strerror}") from error


async def _condor_config(config: str, role: str) -> bytes:
    argv = [sys.executable, "-P", "-m", "gateway", "condor-config", "--role", role, "-f", config]
    said = await run(argv, what=f"reading {config}", timeout_s=COMMAND_S_MAX, environment={"PYTHONPATH": str(ROOT)})
    return said.encode()
