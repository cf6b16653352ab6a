"""Status documents for the tests of what operators see: the shapes that the node's own parts make."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

from gateway.config import load
from gateway.config.settings import Settings
from gateway.control.traffic import figures

DATA = Path(__file__).parent / "data"
# Of real nodes of a lab's pool; see each file's own "node", "roles" and "elections".
RECORDED = sorted(DATA.glob("status-*.json"))


def recorded(name: str) -> dict[str, Any]:
    """Return the document of a real node."""
    return json.loads((DATA / f"status-{name}.json").read_text())


def counted(**fields: int) -> dict[str, Any]:
    return figures(Counter(fields), Counter({"connections_total": 3}))


def standing(ago_ms: int = 5, **fields: Any) -> dict[str, Any]:
    return {
        "fit": True,
        "warm": True,
        "term": 3,
        "generation": 1,
        "records": 40,
        "instance": "4711",
        "heard_ms_ago": ago_ms,
    } | fields


HISTORY = {
    "changes": [  # the newest last
        {"seq": 1, "at": 1_793_000_000.0, "election": "managers", "kind": "matchmaker", "term": 7, "from": None,
         "to": "cm2", "cause": "first", "detail": "", "gap_ms": None, "phases": {}},
        {"seq": 4, "at": 1_794_000_000.0, "election": "managers", "kind": "matchmaker", "term": 8, "from": "cm2",
         "to": "cm1", "cause": "requested", "detail": "", "gap_ms": 120, "phases": {"lost_ms": 0}},
        {"seq": 7, "at": 1_795_000_000.5, "election": "vip", "kind": "address", "term": 5, "from": "gw2", "to": "gw1",
         "cause": "died", "detail": "gw2 said nothing", "gap_ms": 291, "phases": {"lost_ms": 0, "announced_ms": 291}},
    ]
}  # fmt: skip


def gateway(**parts: Any) -> dict[str, Any]:
    """Return what a gateway says: it holds the address, cm1 is elected, cm2 stands by, cm3 has never been heard."""
    pool = counted(
        connections_now=5, held_now=2, connections_total=70, bytes_to_server_total=1000, bytes_to_client_total=9000,
        reset_by_client_total=3, source_refused_total=4, maxconn_refused_total=6, connect_failed_total=2,
    )  # fmt: skip
    elected = counted(connections_now=3, connections_total=60, bytes_to_server_total=900, connect_failed_total=2)
    none = figures(Counter(), Counter())
    document = {
        "schema": 1,
        "version": "1.2.3",
        "uptime_ms": 93_784_000,
        "cluster": "pool",
        "node": "gw1",
        "roles": ["gateway"],
        "pid": 812,
        "warnings": ["the lease of 'vip' is not kept by the kernel"],
        "guard": {
            "pid": 800,
            "control_restarts_total": 1,
            "control_killed_total": {"frozen": 1, "late": 0, "hung": 0},
            "control_late_total": 2,
            "letters_sent_total": 3,
        },
        "reloads": {"failed_total": 1, "failure": "other peers"},
        "slowness": {"late_timers_total": 4, "late_ms_max": 31, "patience_ms": 0, "suspensions_total": 0},
        "timer_late_ms_max": 31,
        "timing": {"heartbeat_ms": 100, "lease_ms": 500},
        "on_partition": "hold",
        "elections": {
            "vip": {
                "kind": "address",
                "role": "LEADER",
                "term": 5,
                "leader": "gw1",
                "leader_term": 5,
                "lease_left_ms": 420,
                "answered_ms_ago": {"gw2": 12},
                "promise": {"to": "gw1", "term": 5, "left_ms": 400},
                "last_change": HISTORY["changes"][-1],
                "lost": None,
                "candidates": {"gw1": standing(0), "gw2": standing(7)},
            },
            "managers": {
                "kind": "matchmaker",
                "role": "PASSIVE",
                "term": 8,
                "leader": "cm1",
                "leader_term": 8,
                "lease_left_ms": None,
                "answered_ms_ago": None,
                "promise": {"to": "cm1", "term": 8, "left_ms": 390},
                "last_change": HISTORY["changes"][1],
                "lost": None,
                "candidates": {"cm1": standing(6), "cm2": standing(9, warm=False), "cm3": None},
            },
        },
        "orders": {
            "version": 0,
            "paused": None,
            "drained": [],
            "by": "",
            "at": 0.0,
            "paused_by": None,
            "paused_at": None,
            "drains": [],
            "confirmed": [],
            "missing": [],
            "held_up": [],
        },
        "peers": {
            "gw2": {"heard_ms_ago": 7},
            "cm1": {"heard_ms_ago": 6},
            "cm2": {"heard_ms_ago": 9},
            "cm3": {"heard_ms_ago": None},
        },
        "addresses": {
            "vip": {
                "held": True,
                "held_since_ms": 7_000,
                "fence": "netdev",
                "announced_total": 12,
                "unannounced_total": 0,
                "conflicts_total": 1,
                "defences_total": 1,
                "claimed_by": {"02:00:00:00:00:09": {"for_ms": 40}},
            }
        },
        "matchmakers": {},
        "frontends": {"pool": {"backend": "managers", "way": "proxy", **pool}},
        "backends": {
            "managers": {
                "way": "proxy",
                "transparent": False,
                "server": "cm1",
                "carrier": "relay",
                "state": "",
                "fault": "",
                "refused": None,
                "frontends": ["pool"],
                "addresses": ["vip"],
                **pool,
                "servers": {
                    "cm1": {"elected": True, **elected},
                    "cm2": {"elected": False, **none},
                    "cm3": {"elected": False, **none},
                },
                "relay": pool,
                "kernel": None,
            }
        },
        "relay": {
            "pid": 813,
            "restarts_total": 1,
            "listening": 1,
            "degraded": False,
            "workers": [
                {
                    "pid": 813,
                    "listening": True,
                    "reason": "",
                    "restarts_total": 1,
                    "cpu": 0.25,
                    "resident_kib": 2_048,
                    "log_dropped_total": 0,
                    "descriptors": {"used": 30, "limit": 20_000},
                }
            ],
            "descriptors": {"used": 30, "limit": 20_000, "connections_max": 4_000},
            "frontends": {"pool": pool},
            "backends": {"managers": pool},
            "listeners": {"pool/tcp": {"spliced_bytes_total": 17}},
        },
        "diversions": {},
        "receiving": {},
        "returns": {},
        "history": {"seq": 9, "unwritten_total": 0},
        "children": {"console": {"pid": 820, "starts_total": 1, "failure": ""}},
        "door": {"connections": 0, "accepted_total": 3, "refused_total": {"magic": 1}},
        "cluster_link": {"answered_total": 3, "refused_total": {}},
        "log": {"dropped_total": 2, "suppressed_total": 5},
        "heartbeats": {
            "lanes": 2,
            "sent_total": 900,
            "received_total": 850,
            "unsent": {"ENETUNREACH": 2},
            "refused": {"replayed": 3, "unknown-key": 1},
        },
    }
    return copy.deepcopy(document | parts)


def manager(**parts: Any) -> dict[str, Any]:
    """Return what the elected manager says: cm2 stands by and is 120 ms behind, cm3 is not connected."""
    document = gateway()
    document["elections"]["vip"] |= {"role": "PASSIVE", "lease_left_ms": None}
    document["elections"]["managers"] |= {"role": "LEADER", "lease_left_ms": 350}
    ads = {"slot": 16, "startd": 2, "submitter": 1, "schedd": 1, "master": 6}
    shipped = {
        "connected": True,
        "term": 8,
        "generation": 1,
        "offset": 900,
        "records": 38,
        "lag_ms": 120,
        "lag_records": 2,
        "bytes_total": 5_000,
        "snapshots_total": 1,
    }
    document |= {
        "node": "cm1",
        "roles": ["manager"],
        "addresses": {},
        "frontends": {},
        "backends": {},
        "relay": None,
        "matchmakers": {
            "managers": {
                "negotiator_running": True,
                "negotiator_pid": 77,
                "negotiator_left_alone": False,
                "negotiator_swaps_total": 0,
                "collector": "up",
                "collector_instance": "4711",
                "ads": ads,
                "looked_ms_ago": 4_000,
                "primes_total": 2,
                "primes_complete_total": 1,
                "refreshes_total": 0,
                "ads_invalidated_total": 0,
                "censuses_total": 9,
                "censuses_failed_total": 1,
                "standbys": {
                    "cm2": {
                        "forwarding": True,
                        "primed": True,
                        "ads": ads | {"slot": 14},
                        "missing": 2,
                        "stale": 0,
                        "extra": 1,
                        "lacks": {"slot": 2},
                        "looked_ms_ago": 4_100,
                    },
                    "cm3": {"forwarding": False, "primed": False},
                },
                "accounting": {
                    "term": 8,
                    "generation": 1,
                    "records": 40,
                    "standbys": {"cm2": shipped, "cm3": shipped | {"connected": False, "lag_ms": 0, "lag_records": 0}},
                    "pending": [],
                    "refused_total": {"stale": 1},
                    "missing_at_takeover": None,
                    "merges_total": 1,
                    "waiting": [],
                    "unmerged_total": {"no-base": 1},
                    "unmerged": [],
                    "last_merge": None,
                },
                "ads_apart": 0,
                "ads_apart_total": 3,
            }
        },
    }
    return copy.deepcopy(document | parts)


FILE = """\
global
    cluster pool
    key-file /etc/condor-gateway/cluster.key

peers lan
    peer gw1 10.77.0.91:9619 gateway
    peer gw2 10.77.0.92:9619 gateway
    peer cm1 10.77.0.11:9619 manager
    peer cm2 10.77.0.12:9619 manager
    peer cm3 10.77.0.13:9619 manager

address vip
    ip 10.77.0.100/32 dev eth0
    holder gw1 gw2

frontend pool
    bind vip:9618 proto tcp,udp
    maxconn 3000
    default_backend managers

backend managers
    server cm1 10.77.0.11:9618 check fall 3 rise 2
    server cm2 10.77.0.12:9618 check fall 3 rise 2
    server cm3 10.77.0.13:9618 check fall 3 rise 2
"""


def settings() -> Settings:
    """Return the settings of the nodes above."""
    return load(FILE, "gateway.cfg", {}).require()
