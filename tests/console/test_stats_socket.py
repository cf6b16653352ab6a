"""The stats socket on real unix sockets: HAProxy's manners, levels, files and clients."""

import csv
import grp
import io
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
import trio
from operator_documents import DATA, HISTORY, gateway, manager, settings

from gateway.config.settings import Level as Word
from gateway.config.settings import StatsSocket
from gateway.console.stats.columns import STATIC
from gateway.console.stats_socket import LINE_BYTES_MAX, open_stats, serve_stats
from gateway.control.commands import CommandRefused
from gateway.control.configuration import describe

SESSIONS = [
    {"id": "1-7f8693ef6a40.4000", "frontend": "pool", "backend": "managers", "server": "cm1",
     "client": "10.0.0.9:4000", "state": "open", "age_ms": 900},
    {"id": "1-7f8693ef6b80.4001", "frontend": "pool", "backend": "managers", "server": None,
     "client": "10.0.0.8:4001", "state": "held", "age_ms": 20},
]  # fmt: skip


class StandIn:
    """A node that answers from a document, and remembers what it was told."""

    def __init__(self, document):
        self.document = document
        self.asked = []

    async def ask(self, request, level):
        self.asked.append((request, level))
        match request["command"]:
            case "status":
                return self.document
            case "history":
                return HISTORY
            case "config":
                return describe(settings(), "gateway.cfg")
            case "sessions":
                assert 1 <= request["limit"] <= 1_000, "a node refuses more"
                return {"sessions": SESSIONS}
            case "drain":
                self.document["orders"]["drained"] = [request["node"]]
                return self.document["orders"]
            case "undrain":
                self.document["orders"]["drained"] = []
                return self.document["orders"]
            case "shutdown-session":
                return {"error": "no connection '0x9' here", "reason": "unknown-session"}
        raise CommandRefused("unknown command", "unknown-command")

    def told(self):
        return [request for request, _ in self.asked if request["command"] not in ("status", "config")]


@pytest.fixture
def node():
    return StandIn(gateway())


@pytest.fixture
async def asked(node, nursery, tmp_path):
    """Return a function that sends text to a socket of a level, and returns all that comes until the end."""
    sockets = tuple(StatsSocket(path=str(tmp_path / level), level=level) for level in Word)
    await nursery.start(serve_stats, sockets, node.ask)

    async def ask(text, level="admin"):
        async with await trio.open_unix_socket(str(tmp_path / level)) as stream:
            await stream.send_all(text.encode())
            said = b""
            with trio.fail_after(10):
                async for data in stream:
                    said += data
            return said.decode()

    return ask


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text.removeprefix("# ").rstrip("\n"))))


# -- manners ---------------------------------------------------------------------------------------------------------


async def test_one_line_is_answered_and_the_connection_closes(asked):
    assert await asked("show backend\n") == "# name\nmanagers\n\n"
    assert await asked("show backend\nshow version\n") == "# name\nmanagers\n\n"


async def test_commands_of_one_line_are_parted_by_an_empty_line(asked):
    assert await asked("show backend; show cli level ;show backend\n") == (
        "# name\nmanagers\n\nadmin\n\n# name\nmanagers\n\n"
    )


async def test_prompt_keeps_the_connection_until_quit(asked):
    said = await asked("prompt\nshow backend\nset server managers/none state drain\nquit\nshow backend\n")
    assert said == "\n> # name\nmanagers\n\n> No such server.\n\n> \n"


async def test_prompt_i_talks_without_a_prompt(asked):
    assert await asked("prompt i\nshow cli level\nquit\n") == "\nadmin\n\n\n"


async def test_backslash_takes_a_semicolon_as_it_is(asked):
    assert await asked("show servers state man\\;agers\n") == "Can't find backend.\n\n"


async def test_unknown_command_lists_what_is_near(asked):
    said = await asked("show servers stat\n")
    assert said.startswith("Unknown command, but maybe one of the following ones is a better match:\n")
    assert "  show servers state [<backend>]" in said
    assert "clear counters" not in said
    assert (await asked("\n")).startswith("Unknown command. Please enter one of the following commands only:\n")


async def test_line_without_an_end_is_answered_all_the_same(asked, tmp_path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "admin"))
        client.sendall(b"show cli level")
        client.shutdown(socket.SHUT_WR)
        assert await trio.to_thread.run_sync(client.recv, 100) == b"admin\n\n"


async def test_endless_line_ends_the_connection(asked):
    assert await asked("x" * (LINE_BYTES_MAX + 10_000)) == ""


async def test_haproxy_commands_without_a_meaning_here_are_refused_by_name(asked):
    assert await asked("set weight managers/cm1 10\n") == (
        "'set weight' is known in HAProxy, not here: the election chooses the server, and no weight does\n\n"
    )
    assert "'set server addr' is known in HAProxy, not here" in await asked("set server managers/cm1 addr 10.0.0.1\n")
    assert "'show pools' is known in HAProxy, not here" in await asked("show pools\n")


async def test_answer_that_has_another_shape_harms_nobody(asked, node):
    node.document["frontends"] = None
    assert (await asked("show stat\n")).startswith("Internal error")
    assert await asked("show cli level\n") == "admin\n\n"


# -- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("show stat", "user"),
        ("show sess", "operator"),
        ("show env", "operator"),
        ("clear counters", "operator"),
        ("clear counters all", "admin"),
        ("set server managers/cm2 state drain", "admin"),
        ("disable server managers/cm2", "admin"),
        ("shutdown session 0x1", "admin"),
    ],
)
async def test_each_command_needs_the_level_that_it_needs_in_haproxy(asked, node, command, least):
    order = ["user", "operator", "admin"]
    for level in order:
        denied = await asked(f"{command}\n", level) == "Permission denied\n\n"
        assert denied == (order.index(level) < order.index(least)), level
    assert all(level.name.lower() in order[order.index(least) :] for one, level in node.asked
               if one["command"] in ("drain", "shutdown-session", "sessions"))  # fmt: skip


async def test_level_can_be_lowered_and_not_raised(asked):
    assert await asked("user;show cli level;operator;clear counters\n") == (
        "\nuser\n\nPermission denied\n\nPermission denied\n\n"
    )


async def test_addresses_are_shown_to_operators_only(asked):
    assert "10.77.0.11:9618" in await asked("show stat\n", "operator")
    assert "10.77.0.11" not in await asked("show stat\n", "user")


async def test_help_shows_what_the_level_may(asked):
    said = await asked("help\n", "user")
    assert "set server" not in said
    assert "show stat" in said
    assert "set server" in await asked("help set\n")
    assert "show stat" not in await asked("help set\n")


# -- what is changed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["set server managers/cm2 state drain", "set server managers/cm2 state maint",
                                     "disable server managers/cm2"])  # fmt: skip
async def test_server_that_is_taken_out_is_drained_once(asked, node, command):
    assert await asked(f"{command};{command}\n") == "\n\n"
    assert node.told() == [{"command": "drain", "node": "cm2"}]
    (row,) = [one for one in rows_of(await asked("show stat\n")) if one["svname"] == "cm2"]
    assert row["status"] == "DRAIN"
    assert await asked("set server managers/cm2 state ready\n") == "\n"
    assert node.told()[-1] == {"command": "undrain", "node": "cm2"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("set server managers/none state drain", "No such server."),
        ("set server nowhere/cm1 state drain", "No such backend."),
        ("set server managers", "Require 'backend/server'."),
        ("set server managers/cm1 state off", "'set server <srv> state' expects 'ready', 'drain' and 'maint'."),
        ("enable server managers/none", "No such server."),
        ("shutdown session", "Session pointer expected (use 'show sess')."),
        ("show sess 0x7", "Session not found."),
        ("show servers conn nowhere", "Can't find backend."),
    ],
)
async def test_errors_are_said_in_the_words_of_haproxy(asked, node, command, said):
    assert await asked(f"{command}\n") == f"{said}\n\n"
    assert [one for one in node.told() if one["command"] != "sessions"] == []


async def test_refusal_of_the_node_is_said_as_it_is(asked):
    assert await asked("shutdown session 0x9\n") == "no connection '0x9' here\n\n"


async def test_cleared_counters_begin_at_nothing_and_maxima_at_now(asked, node):
    def shown(text):
        return next(one for one in rows_of(text) if one["svname"] == "FRONTEND")

    node.document["frontends"]["pool"]["connections"]["now"] = 50
    await asked("show stat\n")
    node.document["frontends"]["pool"]["connections"]["now"] = 5
    assert shown(await asked("show stat\n"))["smax"] == "50"
    await asked("clear counters\n", "operator")
    row = shown(await asked("show stat\n"))
    assert (row["smax"], row["stot"]) == ("5", "70")
    await asked("clear counters all\n")
    node.document["frontends"]["pool"]["connections"]["total"] = 72
    assert shown(await asked("show stat\n"))["stot"] == "2"
    node.document["frontends"]["pool"]["connections"]["total"] = 4  # the node has begun anew
    assert shown(await asked("show stat\n"))["stot"] == "4"


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_columns_are_those_of_haproxy_in_its_order():
    of_haproxy = (DATA / "haproxy-2.6.12-show-stat-header.csv").read_text().removeprefix("# ").strip().split(",")
    theirs = of_haproxy[: of_haproxy.index("-")]
    assert [column.name for column in STATIC][: len(theirs)] == theirs


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no HAProxy on this host; its recorded header is tested")
def test_columns_are_those_of_the_haproxy_of_this_host(tmp_path):
    (tmp_path / "cfg").write_text(
        f"global\n stats socket {tmp_path}/sock mode 600 level user\n"
        f"defaults\n mode tcp\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n"
        f"listen x\n bind unix@{tmp_path}/x\n server s 127.0.0.1:1\n"
    )
    running = subprocess.Popen(["haproxy", "-db", "-f", tmp_path / "cfg"], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not (tmp_path / "sock").exists() and time.monotonic() < until:
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / "sock"))
            client.sendall(b"show stat\n")
            said = client.makefile().readline()
    finally:
        running.kill()
        running.wait()
    theirs = said.removeprefix("# ").strip().split(",")
    theirs = theirs[: theirs.index("-")]
    assert [column.name for column in STATIC][: len(theirs)] == theirs


async def test_every_row_has_a_field_for_each_column(asked):
    said = await asked("show stat\n")
    lines = said.strip().splitlines()
    assert lines[0].startswith("# pxname,svname,qcur,")
    assert {len(next(csv.reader([line]))) for line in lines} == {len(next(csv.reader([lines[0]])))}


async def test_servers_are_up_down_and_backups_as_the_election_has_them(asked):
    shown = {one["svname"]: one for one in rows_of(await asked("show stat\n"))}
    assert {name: one["status"] for name, one in shown.items()} == {
        "FRONTEND": "OPEN",
        "cm1": "UP",
        "cm2": "UP",
        "cm3": "DOWN",
        "BACKEND": "UP",
    }
    assert [(one["act"], one["bck"]) for one in (shown["cm1"], shown["cm2"])] == [("1", "0"), ("0", "1")]
    assert (shown["FRONTEND"]["scur"], shown["FRONTEND"]["stot"], shown["FRONTEND"]["bout"]) == ("5", "70", "9000")
    assert (shown["FRONTEND"]["dreq"], shown["FRONTEND"]["dcon"]) == ("6", "4")
    assert (shown["BACKEND"]["qcur"], shown["BACKEND"]["econ"], shown["BACKEND"]["cli_abrt"]) == ("2", "2", "3")
    assert shown["cm3"]["last_chk"] == "its node is not heard"


async def test_manager_shows_servers_without_the_traffic_that_it_cannot_know(asked, node):
    node.document = manager()
    shown = {one["svname"]: one for one in rows_of(await asked("show stat\n"))}
    assert shown["cm2"]["status"] == "UP"
    assert shown["cm2"]["scur"] == ""
    assert (shown["cm2"]["replica_lag_ms"], shown["cm2"]["replica_lag_records"]) == ("120", "2")
    assert shown["cm3"]["replica_lag_ms"] == ""


async def test_stat_is_limited_to_a_proxy_its_types_and_a_server(asked):
    async def names(words):
        return [one["svname"] for one in rows_of(await asked(f"show stat {words}\n"))]

    assert await names("managers -1 -1") == ["cm1", "cm2", "cm3", "BACKEND"]
    assert await names("-1 1 -1") == ["FRONTEND"]
    assert await names("3 4 2") == ["cm2"]
    assert await names("-1 6 -1") == ["cm1", "cm2", "cm3", "BACKEND"]
    assert await names("up") == ["FRONTEND", "cm1", "cm2", "BACKEND"]


async def test_typed_and_json_say_the_same_as_the_csv(asked):
    shown = {(one["pxname"], one["svname"]): one for one in rows_of(await asked("show stat\n"))}
    for fields in json.loads(await asked("show stat json\n")):
        values = {field["field"]["name"]: field["value"]["value"] for field in fields}
        row = shown[values["pxname"], values["svname"]]
        assert {name: value for name, value in row.items() if name and value and name != "-"} == {
            name: str(value) for name, value in values.items()
        }
    typed = (await asked("show stat typed\n")).splitlines()
    assert "F.2.0.7.stot.1:MCP:u64:70" in typed
    assert "S.3.1.17.status.1:SGP:str:UP" in typed
    assert len({line.split(":")[0] for line in typed}) == len(typed)


async def test_info_has_the_fields_that_tools_of_haproxy_read(asked):
    info = dict(line.split(": ", 1) for line in (await asked("show info\n")).strip().splitlines())
    assert info["Version"] == "1.2.3"
    assert (info["Uptime"], info["Uptime_sec"]) == ("1d 2h03m04s", "93784")
    assert (info["CurrConns"], info["CumConns"], info["Pid"], info["node"]) == ("5", "70", "812", "gw1")
    assert info["Idle_pct"] == "75"
    assert (info["Leads"], info["Maxconn"]) == ("vip", "3000")
    assert "CompressBpsIn" not in info
    assert "8.Uptime_sec.1:MDP:u32:93784" in await asked("show info typed\n")


async def test_servers_state_has_the_format_of_haproxy(asked):
    version, columns, *lines = (await asked("show servers state managers\n")).strip().splitlines()
    assert version == "1"
    assert len(columns.removeprefix("# ").split()) == 25
    assert {len(line.split()) for line in lines} == {25}
    assert [line.split()[5] for line in lines] == ["2", "2", "0"]
    assert next((line.split()[4], line.split()[18]) for line in lines) == ("10.77.0.11", "9618")


async def test_sessions_are_lines_with_the_words_of_haproxy(asked):
    assert await asked("show sess\n") == (
        "1-7f8693ef6a40.4000: fe=pool be=managers srv=cm1 src=10.0.0.9:4000 state=open age_ms=900\n"
        "1-7f8693ef6b80.4001: fe=pool be=managers srv=<none> src=10.0.0.8:4001 state=held age_ms=20\n\n"
    )
    assert (await asked("show sess 1-7f8693ef6b80.4001\n")).startswith("1-7f8693ef6b80.4001: ")


async def test_environment_hides_what_may_be_secret(asked, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    said = await asked("show env\n", "operator")
    assert "SOME_TOKEN=***\n" in said
    assert "LANG=C.UTF-8\n" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("show election vip", "vip: kind=address role=LEADER leader=gw1 term=5 lease_left_ms=420\n"),
        ("show lease", "managers: held=no left_ms=- term=8 leader=cm1\n"),
        ("show address", "  claimed by 02:00:00:00:00:09: for_ms=40\n"),
        ("show replication", "  cm2 accounting: connected=yes term=8"),
        (
            "show orders",
            "orders: version=0 paused=- drained=- by=- at=0.0 paused_by=- paused_at=- confirmed=-",
        ),
        ("show history", "7 1795000000.500 election=vip kind=address term=5 from=gw2 to=gw1 cause=died"),
        ("show errors", "heartbeats replayed 3\n"),
        ("show activity", "relay_0: pid=813 cpu=0.25"),
        ("show peers", "  cm3: never heard\n"),
    ],
)
async def test_own_commands_are_lines_of_names_and_values(asked, node, command, expected):
    if command == "show replication":
        node.document = manager()
    assert expected in await asked(f"{command}\n")


# -- files -----------------------------------------------------------------------------------------------------------


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


async def test_socket_has_the_mode_owner_and_group_of_the_file(node, nursery, tmp_path):
    path = tmp_path / "sock"
    one = StatsSocket(path=str(path), mode=0o660, user="nobody", group="nogroup", level=Word.USER)
    await nursery.start(serve_stats, (one,), node.ask)
    assert mode_of(path) == 0o660
    assert (path.stat().st_uid, path.stat().st_gid) == (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid)
    assert list(tmp_path.iterdir()) == [path]


def test_socket_is_never_open_to_more_than_its_mode_says(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "chown", lambda path, *ids: seen.append((path.name, mode_of(path))))
    (opened,) = open_stats((StatsSocket(path=str(tmp_path / "sock"), mode=0o666),))
    opened.close()
    ((name, mode),) = seen
    assert name != "sock", "it has its name only when all else is as it should be"
    assert mode == 0o600


async def test_stale_socket_is_replaced_and_a_file_is_not(node, tmp_path):
    stale, file = tmp_path / "stale", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as before:
        before.bind(str(stale))
    file.write_text("precious")
    opened = open_stats((StatsSocket(path=str(stale)), StatsSocket(path=str(file))))
    assert [one.settings.path for one in opened] == [str(stale)]
    assert file.read_text() == "precious"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(stale))
    opened[0].close()
    assert not stale.exists()


async def test_predecessor_that_ends_late_leaves_its_successors_socket_alone(tmp_path):
    path = tmp_path / "sock"
    (first,) = open_stats((StatsSocket(path=str(path)),))
    (second,) = open_stats((StatsSocket(path=str(path)),))
    first.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()


async def test_unknown_user_costs_that_socket_alone(tmp_path):
    named = StatsSocket(path=str(tmp_path / "one"), user="nobody-of-this-name")
    opened = open_stats((named, StatsSocket(path=str(tmp_path / "two"))))
    assert [Path(one.settings.path).name for one in opened] == ["two"]
    opened[0].close()
