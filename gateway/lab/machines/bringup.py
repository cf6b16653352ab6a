"""From nothing to machines that are up and provisioned, and back to nothing.

Down looks for what there is, not for what a file remembers: it works after a crash, on half a lab, and twice.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines import box, faults, hypervisor, inventory, needs, payload, trial, vagrant
from gateway.lab.machines.hypervisor import Hypervisor, virsh
from gateway.lab.machines.inventory import FOLDER, PREFIX, Inventory
from gateway.lab.machines.plan import Plan, digest, plan
from gateway.lab.machines.running import Progress, run

IMAGES = hypervisor.STATE / "images"
STORAGE_S_MAX = 120
BUILD = "build"


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Bring up, use or take away by one process at a time. The lock is a name in the kernel: it ends with its process.

    Raises:
        LabError: another one is at it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0{PREFIX}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise LabError(
                "another process brings these machines up, or takes them away, now: wait for it, or interrupt it "
                "there, and it takes away what it has made"
            ) from None
        yield


async def up(progress: Progress) -> Inventory:
    """Bring the machines up as the environment says, provisioned, and leave them running.

    Those that are up already are left as they are, but that what a scenario broke that was killed is mended; what an
    interrupted bring-up has left is taken away first.

    Raises:
        LabError: something lacks or did not work, and what is up then stays up, to be looked at; or others are up.
    """
    wanted = plan(os.environ)
    asked = digest(wanted, os.environ, await payload.config(Path(wanted.config)))
    if found := await _present(asked):
        await _mend(found)
        progress("the machines are up already")
        return found
    await down(progress)
    if wanted.provider == "virtualbox":
        raise LabError(
            "with virtualbox run 'make vagrant-payload' and then 'vagrant up --provider virtualbox' in vagrant/: "
            "this program knows libvirt alone"
        )
    await needs.install_missing(progress)
    running = await hypervisor.start(progress)
    built = None
    if _builds(wanted, running):
        built = await trio.to_thread.run_sync(box.build, progress, abandon_on_cancel=True)
    await payload.make(wanted, progress, None if built is None else built.tree)
    accelerator = wanted.accelerator or await _accelerator(built)
    progress(f"guests run under {accelerator}")
    told = {**running.environment, "LAB_ACCELERATOR": accelerator, **await _box(wanted, running, built, progress)}
    vagrant.write_script(running.entering, vagrant.environment(wanted, told))
    progress(f"bringing up {', '.join(machine.name for machine in wanted.machines)}")
    await vagrant.vagrant("up", timeout_s=vagrant.UP_S_MAX)
    found = await vagrant.inventory(wanted, running, accelerator, asked)
    inventory.write(found)
    progress("the machines are up")
    return found


async def _present(asked: str) -> Inventory | None:
    """Return what is up where all of it is; None: nothing, or not all.

    Raises:
        LabError: it is not what is asked for.
    """
    try:
        found = inventory.read()
    except LabError:
        return None
    running = Hypervisor(
        uri=found.environment["LIBVIRT_DEFAULT_URI"], entering=found.entering, own=bool(found.entering)
    )
    if not await hypervisor.answers(running):
        return None
    up = set((await virsh(running, "list", "--name")).split())
    if not {machine.domain for machine in found.machines} <= up:
        return None
    if found.asked != asked:
        names = ", ".join(machine.name for machine in found.machines)
        raise LabError(
            f"{names} are up, brought up by other words (LAB_SMALL, LAB_CONFIG, ...) or with another gateway.cfg: "
            "'make vagrant-down' takes them away"
        )
    return found


async def _mend(found: Inventory) -> None:
    """Have machines that are up run, with their cables in, on a network that is whole."""
    hands = faults.Hands(found)
    await hands.mend()
    for machine in found.machines:
        if (await hands.virsh("domstate", machine.domain)).strip() == "paused":
            await hands.virsh("resume", machine.domain)
        await hands.cable(machine.name, plugged=True)


def _builds(wanted: Plan, running: Hypervisor) -> bool:
    """Whether a box is built here: as is said, or where the machine that runs libvirtd is not one of people."""
    return wanted.box == BUILD or (wanted.box == "" and running.own)


async def _accelerator(built: box.Built | None) -> str:
    if built is not None:
        return await trial.accelerator(built)
    return trial.KVM if needs.usable_kvm() else trial.TCG


async def _box(wanted: Plan, running: Hypervisor, built: box.Built | None, progress: Progress) -> dict[str, str]:
    """Give libvirt and Vagrant the box; return what the Vagrantfile must know of it."""
    if built is None:
        return {"LAB_BOX": wanted.box} if wanted.box else {}
    told = {"LAB_BOX": box.NAME, "LAB_BOX_VERSION": built.version}
    if running.own:
        told["VAGRANT_HOME"] = str(vagrant.HOME)
    await _make_pool(running)
    told["LAB_POOL"] = vagrant.POOL
    for name, file in (("vmlinuz", built.kernel), ("initrd.img", built.initrd)):
        told[f"LAB_{'KERNEL' if name == 'vmlinuz' else 'INITRD'}"] = await _upload(running, name, file)
    progress("giving the box to Vagrant")
    vagrant.write_script(running.entering, vagrant.environment(wanted, told))
    metadata = FOLDER / "box.json"
    metadata.write_text(_metadata(built))
    await vagrant.vagrant("box", "add", "--force", "--provider", "libvirt", str(metadata), timeout_s=STORAGE_S_MAX)
    return told


def _metadata(built: box.Built) -> str:
    provider = {"name": "libvirt", "url": f"file://{built.box}"}
    return json.dumps({"name": box.NAME, "versions": [{"version": built.version, "providers": [provider]}]})


async def _make_pool(running: Hypervisor) -> None:
    """Make a storage pool of the lab's own, where libvirtd may read and write."""
    if PREFIX in (await virsh(running, "pool-list", "--all", "--name")).split():
        await virsh(running, "pool-start", PREFIX, check=False)  # after a boot it is not
        return
    images = IMAGES if running.own else Path("/var/lib/libvirt/images") / PREFIX
    await virsh(running, "pool-define-as", PREFIX, "dir", "--target", str(images))
    await virsh(running, "pool-build", PREFIX)
    await virsh(running, "pool-start", PREFIX)


async def _upload(running: Hypervisor, name: str, file: Path) -> str:
    """Put a file into the pool; return its path as libvirtd sees it."""
    if name in (await virsh(running, "vol-list", PREFIX)).split():
        await virsh(running, "vol-delete", "--pool", PREFIX, name)
    size = (await trio.Path(file).stat()).st_size
    await virsh(running, "vol-create-as", PREFIX, name, str(size), "--format", "raw")
    await virsh(running, "vol-upload", "--pool", PREFIX, name, str(file), timeout_s=STORAGE_S_MAX)
    return (await virsh(running, "vol-path", "--pool", PREFIX, name)).strip()


async def down(progress: Progress) -> bool:
    """Take everything of the lab away; False: there was nothing.

    Raises:
        LabError: something would not go; running it again is safe.
    """
    if vagrant.SCRIPT.exists() and not hypervisor.NAMESPACE.exists():
        # Vagrant's own list of machines is the user's, in such a case. What it can't destroy goes by its name below.
        with contextlib.suppress(LabError):
            await vagrant.vagrant("destroy", "--force", timeout_s=vagrant.DESTROY_S_MAX, check=False)
            await vagrant.vagrant("box", "remove", "--all", "--force", box.NAME, check=False)
    existed = await hypervisor.stop()
    if needs.has_systemd() and os.geteuid() == 0:  # else a partition was made in a namespace, which has gone
        await run(
            ["nft", "-f", "-"], what="mending the network", timeout_s=10, check=False, input_text=faults.mending()
        )
    if needs.has_systemd() and await needs.libvirt_answers(hypervisor.SYSTEM_URI):
        system = Hypervisor(uri=hypervisor.SYSTEM_URI, entering=(), own=False)
        existed = await _remove_named(system) or existed
    files = [inventory.FILE, payload.FILE, payload.SSH_KEY, Path(f"{payload.SSH_KEY}.pub"), *vagrant.leftovers()]
    for path in files:
        if path.is_dir():
            await trio.to_thread.run_sync(shutil.rmtree, path)
        elif path.exists():
            path.unlink()
    if existed:
        progress("the machines are gone")
    return existed


async def _remove_named(running: Hypervisor) -> bool:
    """Take what bears our name from a libvirtd that is not ours: machines, networks, disks."""
    existed = False
    for domain in (await virsh(running, "list", "--all", "--name")).split():
        if domain.startswith(f"{PREFIX}_"):
            existed = True
            await virsh(running, "destroy", domain, check=False)
            await virsh(running, "undefine", domain, "--remove-all-storage", "--snapshots-metadata", check=False)
    for network in (await virsh(running, "net-list", "--all", "--name")).split():
        if network in (PREFIX, f"{PREFIX}-ssh"):
            existed = True
            await virsh(running, "net-destroy", network, check=False)
            await virsh(running, "net-undefine", network, check=False)
    if PREFIX in (await virsh(running, "pool-list", "--all", "--name")).split():
        existed = True
        await virsh(running, "pool-start", PREFIX, check=False)  # after a boot it is not
        for volume in (await virsh(running, "vol-list", PREFIX, check=False)).splitlines():
            await virsh(running, "vol-delete", "--pool", PREFIX, volume.split()[0], check=False)
        await virsh(running, "pool-destroy", PREFIX, check=False)
        await virsh(running, "pool-delete", PREFIX, check=False)
        await virsh(running, "pool-undefine", PREFIX, check=False)
    return existed
