"""Whether guests live under KVM here: one is booted and must do some seconds of work.

A device that opens says nothing. Measured: inside some virtual machines /dev/kvm opens, and stock Debian kernels die
in it at their first instructions.
"""

import subprocess
import tempfile
from pathlib import Path

import trio

from gateway.lab.machines import box
from gateway.lab.machines.needs import usable_kvm

BOOT_S_MAX = 30  # a guest under KVM needs three
POLL_S = 0.1
KVM, TCG = "kvm", "tcg"


async def accelerator(built: box.Built) -> str:
    """Return "kvm" where a guest does its work under it, else "tcg"."""
    if not usable_kvm():
        return TCG
    return KVM if await _lives(built, ["-accel", "kvm", "-cpu", "host"]) else TCG


async def _lives(built: box.Built, accelerating: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        console = Path(folder) / "console"
        argv = [
            # By its own clock: should this process be killed, nobody would find it.
            "timeout", "-k", "2", str(BOOT_S_MAX + 5),
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", *accelerating, "-m", "512", "-display", "none",
            "-no-reboot", "-serial", f"file:{console}", "-kernel", str(built.kernel), "-initrd", str(built.initrd),
            "-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 init=/usr/local/sbin/trial",
            "-drive", f"file={built.image},if=virtio,snapshot=on,format=qcow2",
        ]  # fmt: skip
        with trio.move_on_after(BOOT_S_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_boot, argv, nursery.cancel_scope)
                while box.MARKER not in await _text(console):  # noqa: ASYNC110  a file has no event
                    await trio.sleep(POLL_S)
                nursery.cancel_scope.cancel()
        return box.MARKER in await _text(console)


async def _boot(argv: list[str], scope: trio.CancelScope) -> None:
    await trio.run_process(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scope.cancel()  # it has ended by itself: a guest that lives does not


async def _text(file: Path) -> str:
    try:
        return await trio.Path(file).read_text(errors="replace")
    except FileNotFoundError:
        return ""
