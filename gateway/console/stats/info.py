"""Fields of `show info`: HAProxy's names where they mean something here, and then this node's own.

Rule: what HAProxy has and this program does not (TLS, compression, memory pools) is absent, not zero; but for the few
fields without which hatop does not start.
"""

import os
import time
from typing import Any, Final

import gateway
from gateway import __version__
from gateway.config.settings import Settings
from gateway.console.stats.columns import Column
from gateway.console.stats.render import Field
from gateway.console.stats.rows import Document, Value

# HAProxy's names with the positions that they have there, so that a tool that counts finds them.
_FIELDS: Final = {
    "Name": (0, "POS", "str"),
    "Version": (1, "POS", "str"),
    "Release_date": (2, "POS", "str"),
    "Nbthread": (3, "CGS", "u32"),
    "Nbproc": (4, "CGS", "u32"),
    "Process_num": (5, "KGP", "u32"),
    "Pid": (6, "SGP", "u32"),
    "Uptime": (7, "MDP", "str"),
    "Uptime_sec": (8, "MDP", "u32"),
    "Ulimit-n": (13, "CLP", "u32"),
    "Maxsock": (14, "CLP", "u32"),
    "Maxconn": (15, "CLP", "u32"),
    "Hard_maxconn": (16, "CLP", "u32"),
    "CurrConns": (17, "MGP", "u32"),
    "CumConns": (18, "MCP", "u64"),
    "CumReq": (19, "MCP", "u64"),
    "Maxpipes": (23, "CLP", "u32"),
    "PipesUsed": (24, "MGP", "u32"),
    "PipesFree": (25, "MGP", "u32"),
    "ConnRate": (26, "MRP", "u32"),
    "SessRate": (29, "MRP", "u32"),
    "Tasks": (47, "MGP", "u32"),
    "Run_queue": (48, "MGP", "u32"),
    "Idle_pct": (49, "MaP", "u32"),
    "node": (50, "COS", "str"),
    "Listeners": (55, "MGP", "u32"),
    "ActivePeers": (56, "MGP", "u32"),
    "ConnectedPeers": (57, "MGP", "u32"),
    "DroppedLogs": (58, "MCP", "u32"),
    "TotalBytesOut": (61, "MCP", "u64"),
    "TotalSplicedBytesOut": (62, "MCP", "u64"),
    "BytesOutRate": (63, "MRP", "u64"),
    # Our own, after all of HAProxy's.
    "Cluster": (200, "COC", "str"),
    "Roles": (201, "COS", "str"),
    "Leads": (202, "SOP", "str"),
    "Warnings": (203, "MGP", "u32"),
    "LateTimers": (204, "MCP", "u64"),
    "GuardPid": (205, "SGP", "u32"),
}
HEARD_MS: Final = 1_000


def info(document: Document, settings: Settings | None = None) -> list[Field]:
    """Return the fields that this node can fill."""
    found: dict[str, Value | None] = _program(document) | _traffic(document, settings) | _cluster(document)
    return [
        (position, Column(name, tag, kind), value)
        for name, (position, tag, kind) in _FIELDS.items()
        if (value := found.get(name)) is not None
    ]


def uptime(uptime_ms: int) -> str:
    """Return `1d 2h03m04s`, as HAProxy writes it."""
    minutes, seconds = divmod(uptime_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h{minutes:02}m{seconds:02}s"


def _program(document: Document) -> dict[str, Value | None]:
    uptime_ms = document.get("uptime_ms", 0)
    log = document.get("log", {})
    return {
        "Name": "condor-gateway",
        "Version": document.get("version", __version__),
        "Release_date": time.strftime("%Y/%m/%d", time.gmtime(os.stat(gateway.__file__).st_mtime)),
        "Nbproc": 1,
        "Process_num": 1,
        "Pid": document["pid"],
        "Uptime": uptime(uptime_ms),
        "Uptime_sec": uptime_ms // 1000,
        "DroppedLogs": log.get("dropped_total", 0),
        "node": document["node"],
    }


def _traffic(document: Document, settings: Settings | None) -> dict[str, Value | None]:
    relay: dict[str, Any] = document["relay"] or {}
    frontends = list(document["frontends"].values())
    found: dict[str, Value | None] = {
        "CurrConns": sum(one["connections"]["now"] or 0 for one in frontends),
        "CumConns": sum(one["connections"]["total"] or 0 for one in frontends),
        "Maxpipes": 0,
        "PipesUsed": 0,
        "PipesFree": 0,
        "Tasks": sum((one["connections"]["now"] or 0) + (one["flows"]["now"] or 0) for one in frontends),
        "Run_queue": 0,
        "CumReq": sum(one["connections"]["total"] or 0 for one in frontends),
        "ConnRate": round(sum(one["rates"]["connections"] or 0 for one in frontends)),
        "SessRate": round(sum(one["rates"]["connections"] or 0 for one in frontends)),
        "TotalBytesOut": sum(one["bytes"]["to_client"] or 0 for one in frontends),
        "BytesOutRate": round(sum(one["rates"]["bytes_to_client"] or 0 for one in frontends)),
        "Listeners": len(relay.get("listeners", ())),
    }
    if settings is not None:
        found["Maxconn"] = found["Hard_maxconn"] = sum(one.maxconn for one in settings.frontends)
    if relay:
        workers = relay["workers"]
        found["Nbthread"] = len(workers)
        found["Ulimit-n"] = found["Maxsock"] = relay["descriptors"]["limit"]
        busiest = max((worker["cpu"] for worker in workers), default=0.0)
        found["Idle_pct"] = max(0, min(100, round(100 * (1 - busiest))))
        found["TotalSplicedBytesOut"] = sum(one.get("spliced_bytes_total", 0) for one in relay["listeners"].values())
    return found


def _cluster(document: Document) -> dict[str, Value | None]:
    peers = document["peers"].values()
    heard = [one for one in peers if one["heard_ms_ago"] is not None and one["heard_ms_ago"] < HEARD_MS]
    leads = [name for name, one in document["elections"].items() if one["lease_left_ms"] is not None]
    return {
        "ActivePeers": len(peers),
        "ConnectedPeers": len(heard),
        "Cluster": document["cluster"],
        "Roles": ",".join(document["roles"]),
        "Leads": ",".join(leads) or "nothing",
        "Warnings": len(document["warnings"]),
        "LateTimers": document["slowness"]["late_timers_total"],
        "GuardPid": document["guard"]["pid"] if document["guard"] else None,
    }
