"""Pool values: what a merge must know of this pool's configuration, as this host's HTCondor has it.

Rule: HTCondor is asked, in one call; what it does not say has HTCondor's own default.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.core.reconcile import Pool
from gateway.matchmaker.condor import CondorHost, run_tool

ASK_MS_MAX: Final = 10_000  # as `discover`
_GROUP: Final = "GROUP_PRIO_FACTOR_"
_NEGOTIATORS: Final = (
    "PRIORITY_HALFLIFE",
    "DEFAULT_PRIO_FACTOR",
    "NICE_USER_PRIO_FACTOR",
    "REMOTE_PRIO_FACTOR",
    "ACCOUNTANT_LOCAL_DOMAIN",
    "UPDATE_INTERVAL",
    "GROUP_NAMES",
)
COMMAND: Final = (
    "condor_config_val",
    "-expanded",
    "-dump",
    rf"^((NEGOTIATOR[.])?({'|'.join(_NEGOTIATORS)}|{_GROUP}.+)|(COLLECTOR[.])?CLASSAD_LIFETIME)$",
)


async def pool_of(_host: CondorHost | None = None) -> Pool:
    """Ask for the pool's values: of this host, which is the one that can be asked.

    The interval of updates is that of this host's own configuration: a pool whose execute hosts have another one
    should say so here too.

    Raises:
        ToolFailed: condor_config_val can't be run, or its configuration not be read.
    """
    return pool_from(await run_tool(*COMMAND, timeout_ms=ASK_MS_MAX))


def pool_from(answer: str) -> Pool:
    """Return the values in an answer to `COMMAND`: lines of NAME = value. What is no number has its default."""
    values = _values(answer)
    plain = Pool()
    lifetime_s = int(_number(values, "CLASSAD_LIFETIME", plain.lifetime_s))
    # Claims end within a lifetime; how much of it was spent when the slot was last heard is not known.
    stale_s = max(lifetime_s - int(_number(values, "UPDATE_INTERVAL", 300)), 0)
    groups = [name for name in values.get("GROUP_NAMES", "").replace(",", " ").split() if name]
    spelled = {name.lower(): name for name in groups}
    factors = {}
    for name in values:
        if name.startswith(_GROUP):
            group = name.removeprefix(_GROUP).lower()
            factors[spelled.get(group, group)] = _number(values, name, plain.factor_default)
    return msgspec.structs.replace(
        plain,
        half_life_s=_number(values, "PRIORITY_HALFLIFE", plain.half_life_s),
        stale_s=stale_s,
        lifetime_s=lifetime_s,
        factor_default=_number(values, "DEFAULT_PRIO_FACTOR", plain.factor_default),
        factor_nice=_number(values, "NICE_USER_PRIO_FACTOR", plain.factor_nice),
        factor_remote=_number(values, "REMOTE_PRIO_FACTOR", plain.factor_remote),
        local_domain=values.get("ACCOUNTANT_LOCAL_DOMAIN", ""),
        factor_groups=factors,
    )


def _values(answer: str) -> dict[str, str]:
    """Return the values by name in capitals; what is said for one daemon only outweighs what is said for all."""
    said = {}
    for line in answer.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            said[name.strip().upper()] = value.strip()
    plain = {name: value for name, value in said.items() if "." not in name or name.startswith(_GROUP)}
    for name, value in said.items():
        daemon, dot, rest = name.partition(".")
        if dot and daemon in ("NEGOTIATOR", "COLLECTOR"):
            plain[rest] = value
    return plain


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    try:
        number = float(values[name])
    except (KeyError, ValueError):
        return default
    return number if 0 < number < float("inf") else default
