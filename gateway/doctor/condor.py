"""HTCondor's configuration on this host, as condor_config_val tells it: values, and where each was set. Synchronous.

Rule: HTCondor is asked and never guessed at; it has a deadline, and what it says is bounded.
"""

import subprocess
from collections.abc import Mapping
from typing import Final

import msgspec

ASK_S_MAX: Final = 10.0  # it takes 20 ms; a configuration that runs scripts (`include : ... |`) may take seconds
OUTPUT_BYTES_MAX: Final = 4 << 20  # every parameter of HTCondor with its default is 400 KB
CONFIG_VAL: Final = "condor_config_val"
_DEFAULT: Final = "<Default>"


class CondorSilent(Exception):  # noqa: N818 (an answer to the operator)
    """HTCondor's configuration can't be read here; the sentence says why."""


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter: its value, all macros expanded; where it was set, "" for HTCondor's own default."""

    value: str
    where: str = ""
    raw: str = ""


def ask_condor(pattern: str, *, config_val: str = CONFIG_VAL, wait_s: float = ASK_S_MAX) -> dict[str, Knob]:
    """Return the parameters whose names match `pattern`, by their names in capitals.

    A parameter that is set for one daemon has that daemon's name before it: `COLLECTOR.SEC_DEFAULT_SESSION_DURATION`.

    Raises:
        CondorSilent: it is not installed, does not answer in time, or its configuration can't be read.
    """
    argv = [config_val, "-expanded", "-verbose", "-dump", pattern]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=wait_s, check=False)
    except FileNotFoundError:
        raise CondorSilent(
            f"'{config_val}' is not here: name HTCondor's with --config-val PATH"
            if config_val != CONFIG_VAL
            else "HTCondor is not installed on this host: there is no condor_config_val"
        ) from None
    except subprocess.TimeoutExpired:
        raise CondorSilent(f"'{config_val}' gave no answer within {wait_s:g} s") from None
    except OSError as error:
        raise CondorSilent(f"'{config_val}' can't be run: {error.strerror}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())[:300] or "it said nothing"
        raise CondorSilent(f"'{config_val}' can't read HTCondor's configuration: {said}")
    return parse_dump(done.stdout[:OUTPUT_BYTES_MAX].decode(errors="replace"))


def parse_dump(text: str) -> dict[str, Knob]:
    """Return the parameters of an answer to `condor_config_val -expanded -verbose -dump`."""
    found: dict[str, Knob] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith(" #"):
            word, _, rest = line[2:].strip().partition(":")
            if last and word == "at":
                where = "" if rest.strip() == _DEFAULT else rest.strip()
                found[last] = msgspec.structs.replace(found[last], where=where)
            elif last and word == "raw":
                found[last] = msgspec.structs.replace(found[last], raw=rest.strip())
            continue
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", " ")):
            last = name.strip().upper()
            found[last] = Knob(value=value.strip())
    return found


def words(value: str) -> list[str]:
    """Return the elements of one of HTCondor's lists: commas and blanks part them."""
    return value.replace(",", " ").split()


def truth(knobs: Mapping[str, Knob], name: str, *, default: bool = False) -> bool:
    """Return a yes-or-no parameter as HTCondor reads it."""
    knob = knobs.get(name)
    if knob is None or not knob.value:
        return default
    return knob.value.lower() in {"true", "t", "yes", "1"}
