"""Which virtual machines there shall be, with what on each, as the environment says. Pure.

The Vagrantfile says the same of names, addresses and roles: it must be of use without this program. A test compares.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from gateway.lab.errors import LabError
from gateway.lab.machines.inventory import ROOT, SUBNET

EXAMPLES = ROOT / "haproxy-like-config"
MEMORY_MB = 512
MANAGERS_MAX = {True: 2, False: 3}  # small or not
PROVIDERS = ("libvirt", "virtualbox")


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that there shall be."""

    name: str
    address: str
    roles: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. `config` is the gateway's file that they get, but for what provisioning fits to them."""

    machines: tuple[Planned, ...]
    small: bool
    managers: int
    memory_mb: int
    provider: str
    config: str
    box: str  # "": what fits the machine; "build"; or a name that Vagrant knows
    accelerator: str  # "": what works; "kvm", "tcg"


def plan(environment: Mapping[str, str]) -> Plan:
    """Read LAB_SMALL, LAB_MANAGERS, LAB_MEMORY, LAB_PROVIDER, LAB_CONFIG, LAB_BOX and LAB_ACCELERATOR.

    Raises:
        LabError: one of them says what can't be.
    """
    small = environment.get("LAB_SMALL", "") not in ("", "0")
    managers = _number(environment, "LAB_MANAGERS", MANAGERS_MAX[small], 1, MANAGERS_MAX[small])
    example = "two-nodes-witness.cfg" if small else "minimal.cfg"
    return Plan(
        machines=_small(managers) if small else _full(managers),
        small=small,
        managers=managers,
        memory_mb=_number(environment, "LAB_MEMORY", MEMORY_MB, 256, 65_536),
        provider=_choice(environment, "LAB_PROVIDER", PROVIDERS) or "libvirt",
        config=environment.get("LAB_CONFIG") or str(EXAMPLES / example),
        box=environment.get("LAB_BOX", ""),
        accelerator=_choice(environment, "LAB_ACCELERATOR", ("kvm", "tcg")),
    )


# What the Vagrantfile and provisioning read by themselves.
_PERIODS = ("LAB_HEARTBEAT", "LAB_LEASE", "LAB_CHECK")


def digest(plan: Plan, environment: Mapping[str, str], config: bytes) -> str:
    """Return a text that differs where machines differ. `config`: the contents of the gateway's file."""
    periods = {name: environment.get(name, "") for name in _PERIODS}
    return hashlib.sha256(msgspec.json.encode((plan, periods)) + config).hexdigest()


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise LabError(f"{name}={text}: write a number from {least} to {most}")
    return int(text)


def _choice(environment: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    text = environment.get(name, "")
    if text and text not in known:
        raise LabError(f"{name}={text}: write {' or '.join(known)}")
    return text


def _planned(name: str, number: int, *roles: str) -> Planned:
    return Planned(name=name, address=f"{SUBNET}.{number}", roles=roles)


def _small(managers: int) -> tuple[Planned, ...]:
    both = [_planned(f"cm{number}", 10 + number, "gateway", "manager") for number in range(1, managers + 1)]
    return (*both, _planned("w1", 13, "witness", "submit", "execute"))


def _full(managers: int) -> tuple[Planned, ...]:
    return (
        _planned("gw1", 91, "gateway"),
        _planned("gw2", 92, "gateway"),
        *(_planned(f"cm{number}", 10 + number, "manager") for number in range(1, managers + 1)),
        _planned("submit1", 21, "submit"),
        _planned("exec1", 31, "execute"),
    )
