"""Templates: what scapy and pyroute2 made once, in a process of their own; addresses are filled in here.

Rule: no library of packets in this process. The two take 33 MB and 0.3 s, and a process that is killed is missed by its
guard only when its memory has been torn down. So a short-lived child (`gateway.kernel.maker`) makes every frame and
request with conspicuous addresses, and this module finds these marks and writes the real addresses over them.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

MAKER: Final = (sys.executable, "-P", "-m", "gateway.kernel.maker")
MAKER_S_MAX: Final = 30.0  # it takes 0.4 s; a disk that must read scapy in first, on a busy host, takes several
OUTPUT_BYTES_MAX: Final = 65_536  # some 1 KB in fact

# What stands in a frame where an address belongs. No protocol's own fields look like these.
MARKS: Final[Mapping[str, bytes]] = {
    "ipv6": bytes.fromhex("20010db8a7c35e91d2b86f4a93e1c75d"),
    "mac": bytes.fromhex("02a9d35be17c"),
    "ipv4": bytes.fromhex("c63364d9"),
    # The last 24 bits of an IPv6 address, which the solicited-node group repeats (RFC 4291 §2.7.1).
    "ipv6_tail": bytes.fromhex("e1c75d"),
}


class TemplatesMissing(Exception):  # noqa: N818 (an answer to the operator)
    """The child process that makes the templates has not made them; the sentence says why and what to do."""


class Template(NamedTuple):
    """A frame or a request, and the places in it that belong to addresses: `(offset, name of the mark)`."""

    data: bytes
    holes: tuple[tuple[int, str], ...]

    def filled(self, values: Mapping[str, bytes]) -> bytearray:
        """Return the bytes with `values` (by name of the mark, each as long as it) in its holes."""
        made = bytearray(self.data)
        for offset, name in self.holes:
            value = values[name]
            assert len(value) == len(MARKS[name]), f"{name} has {len(MARKS[name])} bytes, not {len(value)}"
            made[offset : offset + len(value)] = value
        return made


def find_holes(data: bytes) -> Template:
    """Return `data` as a template: every mark in it is a hole, longer marks before those that they contain."""
    holes = []
    unclaimed = bytearray(data)
    for name in sorted(MARKS, key=lambda name: len(MARKS[name]), reverse=True):
        mark = MARKS[name]
        while (offset := unclaimed.find(mark)) >= 0:  # ends: each turn takes one mark away
            holes.append((offset, name))
            unclaimed[offset : offset + len(mark)] = bytes(len(mark))
    return Template(data, tuple(sorted(holes)))


@functools.cache
def templates() -> Mapping[str, Template]:
    """Return all templates by name. Blocks for a few tenths of a second, once: call it before anything beats.

    Raises:
        TemplatesMissing: the child failed, or took too long.
    """
    return {name: find_holes(data) for name, data in made_by(MAKER, MAKER_S_MAX).items()}


def made_by(maker: Sequence[str], within_s: float) -> dict[str, bytes]:
    """Run `maker` and return what it prints: a JSON object of hexadecimal strings.

    Raises:
        TemplatesMissing: it failed, took longer than `within_s`, or printed something else.
    """
    try:
        done = subprocess.run(maker, capture_output=True, stdin=subprocess.DEVNULL, timeout=within_s)
    except subprocess.TimeoutExpired:
        raise TemplatesMissing(
            f"frames and requests are not made after {within_s:g} s: '{' '.join(maker)}' hangs or this host is "
            "overloaded; try that command by itself"
        ) from None
    except OSError as error:
        raise TemplatesMissing(f"cannot start '{' '.join(maker)}' to make frames: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise TemplatesMissing(
            f"frames and requests cannot be made ({said[-1]}): '{' '.join(maker)}' needs scapy and pyroute2; are they "
            "installed?"
        )
    try:
        if len(done.stdout) > OUTPUT_BYTES_MAX:
            raise ValueError(f"{len(done.stdout)} bytes")
        return {str(name): bytes.fromhex(data) for name, data in json.loads(done.stdout).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise TemplatesMissing(f"'{' '.join(maker)}' printed something else than frames: {error}") from error
