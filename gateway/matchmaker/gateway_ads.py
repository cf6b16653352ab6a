"""The nodes' own ads in the pool: `condor_status -any -constraint 'MyType=="MatchmakerGateway"'` shows who holds what.

Rule: for people and their scripts; nothing of ours reads them. They are generic ads (UPDATE_AD_GENERIC), known by their
Name, and the collector forgets them by itself when nobody sends them any more.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.config.settings import Endpoint
from gateway.matchmaker.condor import run_tool

MY_TYPE: Final = "MatchmakerGateway"
TOOL_MS_MAX: Final = 5_000
LIFETIME_S: Final = 180  # three times the period of sending: an ad that is older says what was

Value = str | int | bool | Sequence[str]
Ad = Mapping[str, Value]


def render_ad(ad: Ad) -> str:
    """Return an ad as text, a line for each attribute, in the syntax of ClassAds."""
    return "".join(f"{name} = {_literal(value)}\n" for name, value in ad.items())


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        text = "".join(character if character.isprintable() else " " for character in value)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "{ " + ", ".join(map(_literal, value)) + " }" if value else "{ }"


async def send_ads(collector: Endpoint, ads: Sequence[Ad]) -> None:
    """Put the ads into a collector.

    Raises:
        ToolFailed: it does not take them.
    """
    text = "\n".join(map(render_ad, ads))
    command = ("condor_advertise", "-pool", str(collector), "-tcp", "-multiple", "UPDATE_AD_GENERIC", "-")
    await run_tool(*command, stdin=text.encode(), timeout_ms=TOOL_MS_MAX)


async def remove_others(collector: Endpoint, cluster: str, nodes: Sequence[str]) -> None:
    """Take the ads of nodes out of a collector that are of this cluster, and not among `nodes` any more.

    Generic ads are withdrawn by their names alone (23.9.6; Requirements that match without one remove nothing).

    Raises:
        ToolFailed: it does not answer, or does not take the request.
    """
    constraint = f"MyType == {_literal(MY_TYPE)} && Cluster == {_literal(cluster)}"
    query = ("condor_status", "-pool", str(collector), "-any", "-constraint", constraint, "-af", "Name")
    names = (await run_tool(*query, timeout_ms=TOOL_MS_MAX)).split()
    gone = sorted(set(names) - {name_of(node, cluster) for node in nodes})
    if not gone:
        return
    text = "\n".join(
        render_ad({"MyType": "Query", "TargetType": MY_TYPE, "Name": name})
        + f"Requirements = TARGET.Name == {_literal(name)}\n"
        for name in gone
    )
    command = ("condor_advertise", "-pool", str(collector), "-tcp", "-multiple", "INVALIDATE_ADS_GENERIC", "-")
    await run_tool(*command, stdin=text.encode(), timeout_ms=TOOL_MS_MAX)


def name_of(node: str, cluster: str) -> str:
    """Return the Name of a node's ad. Names of nodes and clusters have no blanks."""
    return f"{node}@{cluster}"
