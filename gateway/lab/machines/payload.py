"""What provisioning brings to every machine, in one file: the package, the gateway's file, and this lab's own keys.

Keys are made anew for every lab, below `build/vagrant`, and end with it.
"""

import io
import os
import secrets
import sys
import tarfile
import tempfile
from pathlib import Path

import trio

from gateway.lab import cluster, condor
from gateway.lab.errors import LabError
from gateway.lab.machines.inventory import FOLDER, PREFIX, ROOT
from gateway.lab.machines.plan import Plan, plan
from gateway.lab.machines.running import Progress, run

NAME = "payload.tar"
KEY_NAME = "ssh_key"
FILE = FOLDER / NAME
SSH_KEY = FOLDER / KEY_NAME

BUILD_S_MAX = 600

_ALONE = ("unshare", "--mount", "--propagation=private", "--net", "--ipc", "--uts")
_COMPILE = """\
dpkg-deb -x "$1" "$2"
mount --bind "$2" "$3/mnt"
chroot "$3" python3 -m compileall -q -s /mnt -p / -x "/scapy/(contrib|modules|tools)/|/gateway/lab/" /mnt/usr || :
cd "$2"
find usr -name "*.pyc" | tar --create --owner=0 --group=0 --file compiled.tar --files-from=-
"""
COMMAND_S_MAX = 60


async def make(plan: Plan, progress: Progress, tree: Path | None = None, folder: Path = FOLDER) -> Path:
    """Make the keys and the file; return its path. With the machines' `tree` the package's modules are compiled by it.

    Raises:
        LabError: the gateway's file is not there or not valid, or the package can't be built.
    """
    await trio.Path(folder).mkdir(parents=True, exist_ok=True)
    key = await _make_ssh_key(folder / KEY_NAME)
    progress("building the gateway's package")
    package = await _build_package(folder / "package")
    contents = {
        "condor-gateway.deb": await trio.Path(package).read_bytes(),
        "gateway.cfg": await config(Path(plan.config)),
        "cluster.key": cluster.key_file(secrets.token_bytes(32)).encode(),
        "POOL": condor.signing_key_file(secrets.token_bytes(32)),
        "ssh_key.pub": key,
    }
    if tree is not None:
        progress("compiling its modules")
        contents["compiled.tar"] = await _compile(Path(package), tree, folder)
    for role in ("submit", "execute"):  # for hosts that have no gateway to ask
        contents[f"{role}.config"] = await _condor_config(plan.config, role)
    write(folder / NAME, contents)
    return folder / NAME


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


async def _make_ssh_key(file: Path) -> bytes:
    """Make a key; return its public half."""
    public = trio.Path(f"{file}.pub")
    for old in (trio.Path(file), public):
        await old.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", PREFIX, "-f", str(file)]
    await run(argv, what="making the key for ssh", timeout_s=COMMAND_S_MAX)
    return await public.read_bytes()


async def _build_package(folder: Path) -> str:
    said = await run(
        [sys.executable, "-m", "gateway.debian.build", "--compression", "gzip", "-o", str(folder)],
        what="building the package", timeout_s=BUILD_S_MAX, environment={"PYTHONPATH": str(ROOT)}, log="package",
    )  # fmt: skip
    return said.strip().splitlines()[-1]


async def _compile(package: Path, tree: Path, folder: Path) -> bytes:
    """Return a tar file of what the machines' own Python makes of the package's modules: there it takes a minute."""
    with tempfile.TemporaryDirectory(prefix="compiled-", dir=folder) as scratch:
        argv = [*_ALONE, "sh", "-ec", _COMPILE, "sh", str(package), scratch, str(tree)]
        await run(argv, what="compiling the package's modules", timeout_s=BUILD_S_MAX, log="package")
        return await trio.Path(scratch, "compiled.tar").read_bytes()


async def config(file: Path) -> bytes:
    """Return the gateway's file that the machines are to get.

    Raises:
        LabError: it can't be read.
    """
    try:
        return await trio.Path(file).read_bytes()
    except OSError as error:
        raise LabError(f"LAB_CONFIG={file}: {error.strerror}") from error


async def _condor_config(config: str, role: str) -> bytes:
    argv = [sys.executable, "-P", "-m", "gateway", "condor-config", "--role", role, "-f", config]
    said = await run(argv, what=f"reading {config}", timeout_s=COMMAND_S_MAX, environment={"PYTHONPATH": str(ROOT)})
    return said.encode()


def main() -> int:
    """Make the payload of the lab that the environment asks for, and print where it is."""
    try:
        print(trio.run(make, plan(os.environ), lambda text: print(text, file=sys.stderr)))
    except LabError as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
