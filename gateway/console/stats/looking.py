"""HAProxy's `show` commands. Each reads the node's documents and changes nothing."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway import __version__
from gateway.console.stats import render
from gateway.console.stats.counters import Counters
from gateway.console.stats.info import info
from gateway.console.stats.language import Asker, Refusal, Session
from gateway.console.stats.rows import SERVER, Document, Row, rows
from gateway.console.stats.servers import backends_of
from gateway.control.commands import Level

SESSIONS_MAX: Final = 1_000  # the most that a node tells at once
HISTORY_MAX: Final = 100
# Values that can be no secret. All others are hidden: what an environment holds is not ours to know.
_HARMLESS: Final = frozenset(
    {"CONDOR_CONFIG", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LOGNAME", "NO_COLOR", "PATH", "PWD", "SHELL", "TERM", "TZ"}
    | {"USER", "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC"}
)
# field of the `sessions` command -> HAProxy's word
_SESSION_WORDS: Final = {
    "protocol": "proto",
    "client": "src",
    "frontend": "fe",
    "backend": "be",
    "server": "srv",
}
_STATE_COLUMNS: Final = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
_FORCED_DRAIN: Final = 0x08  # SRV_ADMF_FDRAIN
_STOPPED, _RUNNING = 0, 2  # SRV_ST_*
# HAProxy's numbers of check states (HCHK_STATUS_*) and results (CHK_RES_*)
_CHECKS: Final = {"UNK": (0, 0), "L4TOUT": (7, 2), "L7OK": (15, 3), "L7STS": (17, 2)}


class Looking:
    """The handlers that need more than the node: counters that were cleared, the settings, the sockets."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def rows(self, node: Asker, level: Level) -> list[Row]:
        """Return the rows as an operator reads them. Addresses are for operators and above, as in HAProxy."""
        found = self._counters.seen(rows(await node.status(), await node.settings()))
        if level < Level.OPERATOR:
            for row in found:
                row.values.pop("addr", None)
        return found

    async def show_stat(self, node: Asker, session: Session, words: Sequence[str]) -> str:
        """`show stat [{iid|proxy} type sid] [typed|json] [up] [no-maint]`."""
        found = await self.rows(node, session.level)
        rest = list(words[2:])
        if rest[:1] == ["domain"]:
            if rest[1:2] != ["proxy"]:
                raise Refusal("Invalid statistics domain.")
            rest = rest[2:]
        if len(rest) >= 3 and _is_number(rest[1]) and _is_number(rest[2]):
            found = _chosen(found, rest[0], int(rest[1]), int(rest[2]))
            rest = rest[3:]
        if "up" in rest:
            found = [row for row in found if row.values.get("status") in ("UP", "OPEN", "FULL")]
        if "no-maint" in rest:
            found = [row for row in found if row.values.get("status") != "DRAIN"]
        if "typed" in rest:
            return render.typed_stat(found)
        return render.json_stat(found) if "json" in rest else render.csv(found)

    async def show_servers_state(self, node: Asker, session: Session, words: Sequence[str]) -> str:
        """`show servers state [backend]`, version 1 of HAProxy's format."""
        found = _of_backend(await self.rows(node, Level.ADMIN), await node.status(), words[3:4])
        lines = ["1", f"# {_STATE_COLUMNS}"]
        for row in found:
            values = row.values
            host, port = _host_port(values.get("addr"))
            status, result = _CHECKS[str(values["check_status"])]
            lines.append(
                f"{row.iid} {values['pxname']} {row.sid} {values['svname']} {host} "
                f"{_STOPPED if values['status'] == 'DOWN' else _RUNNING} "
                f"{_FORCED_DRAIN if values['drained'] else 0} 1 1 0 {status} {result} "
                f"{values.get('check_rise', 0)} 6 0 0 0 - {port} - 0 0 - - 0"
            )
        return "\n".join(lines) + "\n"

    async def show_servers_conn(self, node: Asker, session: Session, words: Sequence[str]) -> str:
        """`show servers conn [backend]`: nothing is kept idle here."""
        found = _of_backend(await self.rows(node, Level.ADMIN), await node.status(), words[3:4])
        lines = [
            "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim "
            "idle_cur"
        ]
        for row in found:
            host, port = _host_port(row.values.get("addr"))
            now = row.values.get("scur", 0)
            lines.append(
                f"{row.key} {row.iid}/{row.sid} {host} {port} - 0 {now} {row.values.get('smax', 0)} {now} 0 0 0 0"
            )
        return "\n".join(lines) + "\n"


async def show_info(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show info [typed|json]`."""
    fields = info(await node.status(), await node.settings())
    if "typed" in words[2:]:
        return render.typed_info(fields)
    return render.json_info(fields) if "json" in words[2:] else render.plain_info(fields)


def show_schema(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show schema json`."""
    return render.json_schema()


def show_version(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show version`."""
    return f"{__version__}\n"


async def show_backend(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show backend`."""
    return "# name\n" + "".join(f"{name}\n" for name in backends_of(await node.status()))


async def show_sess(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show sess [id]`: connections of this gateway's relay."""
    answer = await node.request("sessions", limit=SESSIONS_MAX)
    found = answer.get("sessions", []) if isinstance(answer, Mapping) else answer
    if len(words) > 2 and words[2] != "all":
        found = [one for one in found if str(one.get("id")) == words[2]]
        if not found:
            raise Refusal("Session not found.")
    return "".join(f"{_session(one)}\n" for one in found)


def _session(one: Mapping[str, Any]) -> str:
    fields = [f"{_SESSION_WORDS.get(name, name)}={_plain(value)}" for name, value in one.items() if name != "id"]
    return f"{one.get('id', '?')}: {' '.join(fields)}"


def _plain(value: Any) -> str:
    return "<none>" if value is None else str(value).replace(" ", "_") or "-"


async def show_events(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show events`: the last changes of leader."""
    if words[2:]:
        raise Refusal(
            "The changes of leader are the only events here, and only those that were. To follow them: notify"
        )
    return history_lines(await node.request("history", limit=HISTORY_MAX))


def history_lines(answer: Mapping[str, Any]) -> str:
    """Return a line a change: `<seq> <unix time> key=value...`."""
    lines = []
    for change in answer.get("changes", ()):
        fields = {name: value for name, value in change.items() if name not in ("seq", "at", "phases")}
        fields |= change.get("phases") or {}
        words = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        lines.append(f"{change.get('seq', '?')} {change.get('at', 0):.3f} {words}\n")
    return "".join(lines)


async def show_errors(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show errors [proxy]`: how often each cause has been counted. What clients sent is kept nowhere."""
    document = await node.status()
    lines = ["# proxy cause count"]
    for kind in ("frontends", "backends"):
        for name, figures in document[kind].items():
            if words[2:3] and words[2] != name:
                continue
            lines += [f"{name} {_plain(cause)} {count}" for cause, count in figures["errors"].items()]
    refused = document["heartbeats"]["refused"]
    lines += [f"heartbeats {_plain(reason)} {count}" for reason, count in refused.items() if not words[2:3]]
    return "\n".join(lines) + "\n"


async def show_activity(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show activity`: what the processes are busy with."""
    document = await node.status()
    slowness, relay = document["slowness"], document["relay"]
    lines = [f"{name}: {value}" for name, value in slowness.items()]
    lines.append(f"timer_late_ms_max: {document['timer_late_ms_max']}")
    beats = document["heartbeats"]
    lines += [f"heartbeats_{name}: {beats[name]}" for name in ("sent_total", "received_total")]
    for number, worker in enumerate(relay["workers"] if relay else ()):
        used = worker["descriptors"]
        lines.append(
            f"relay_{number}: pid={worker['pid']} cpu={worker['cpu']} resident_kib={worker['resident_kib']} "
            f"descriptors={used['used']}/{used['limit']} restarts={worker['restarts_total']}"
        )
    return "\n".join(lines) + "\n"


def show_env(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show env [name]`: what can be no secret, and of the rest the names alone."""
    if words[2:3] and words[2] not in os.environ:
        raise Refusal("Variable not found")
    chosen = words[2:3] or sorted(os.environ)
    return "".join(f"{name}={os.environ[name] if name in _HARMLESS else '***'}\n" for name in chosen)


async def show_peers(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`show peers`: the cluster's other nodes, and when each was heard."""
    document = await node.status()
    lines = [f"{document['cluster']}: local={document['node']}"]
    for name, peer in document["peers"].items():
        ago_ms = peer["heard_ms_ago"]
        lines.append(f"  {name}: {'never heard' if ago_ms is None else f'heard {ago_ms} ms ago'}")
    return "\n".join(lines) + "\n"


def _chosen(found: Sequence[Row], proxy: str, kinds: int, sid: int) -> list[Row]:
    """Return the rows of a proxy (-1: any), of a mask of types (1, 2, 4; -1: any) and of a server (-1: any)."""
    wanted = []
    for row in found:
        of_proxy = row.iid == int(proxy) or int(proxy) < 0 if _is_number(proxy) else row.values["pxname"] == proxy
        if of_proxy and (kinds < 0 or kinds & 1 << row.type) and (sid < 0 or row.type != SERVER or row.sid == sid):
            wanted.append(row)
    return wanted


def _of_backend(found: Sequence[Row], document: Document, words: Sequence[str]) -> list[Row]:
    if words and words[0] not in backends_of(document):
        raise Refusal("Can't find backend.")
    return [row for row in found if row.type == SERVER and (not words or row.values["pxname"] == words[0])]


def _host_port(address: int | str | None) -> tuple[str, str]:
    host, colon, port = str(address or "").rpartition(":")
    return (host.strip("[]"), port) if colon else ("-", "0")


def _is_number(word: str) -> bool:
    return word.lstrip("-").isascii() and word.lstrip("-").isdigit()
