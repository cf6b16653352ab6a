"""The admin socket: root's, one answer a line, and nothing that a client says can break it."""

import itertools
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from gateway.console.admin import LINE_BYTES_MAX, AdminUnreachable, ask_admin, follow_events, serve_admin
from gateway.control.commands import Answer, CommandRefused, Commands, Level, Request


def _refuse(request: Request) -> Answer:
    raise CommandRefused("the moon is full", "moon")


async def _count(request: Request) -> Answer:
    async def numbers() -> AsyncIterator[dict[str, int]]:
        for number in itertools.count(request["after"]):
            yield {"seq": number}
            await trio.lowlevel.checkpoint()

    return numbers()


async def _serve(nursery: trio.Nursery, path: Path) -> None:
    commands = Commands()
    commands.add("status", lambda request: {"schema": 1}, Level.USER)
    commands.add("echo", lambda request: request)
    commands.add("refuse", _refuse)
    commands.add("events", _count)
    commands.add("fail", lambda request: {"node": request["node"]})
    await nursery.start(serve_admin, path, commands)


async def test_a_command_is_answered_with_one_document(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    assert await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "status") == {"schema": 1}


async def test_an_unknown_command_is_told_the_known_ones(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    answer = await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "stats")
    assert answer == {
        "error": "unknown command 'stats'; did you mean 'status'?; known: echo, events, fail, refuse, status",
        "reason": "unknown-command",
    }


async def test_a_request_carries_what_the_command_takes(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    asked = {"command": "echo", "node": "gw1"}
    assert await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", asked) == asked


async def test_a_refusal_has_a_sentence_and_a_name(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    answer = await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "refuse")
    assert answer == {"error": "the moon is full", "reason": "moon"}


async def test_a_command_that_fails_on_what_it_is_given_harms_nobody(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "admin.sock"
    await _serve(nursery, path)
    for name, lacks in (("fail", "node"), ("events", "after")):
        answer = await trio.to_thread.run_sync(ask_admin, path, name)
        assert answer == {"error": f"the command failed: KeyError('{lacks}')", "reason": "failed"}
    assert await trio.to_thread.run_sync(ask_admin, path, "status") == {"schema": 1}


async def test_events_come_until_their_reader_goes(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")

    def read_three() -> list[int]:
        events = follow_events(tmp_path / "admin.sock", 5)
        return [event["seq"] for event, _ in zip(events, range(3), strict=False)]

    assert await trio.to_thread.run_sync(read_three) == [5, 6, 7]


async def test_a_reader_of_events_that_goes_away_amid_one_ends_nobody(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "admin.sock"
    await _serve(nursery, path)
    reader = await trio.open_unix_socket(path)
    await reader.send_all(b'{"command": "events", "after": 0}\n')
    await trio.sleep(0.1)  # more has been sent than its socket takes
    await reader.aclose()
    await trio.sleep(0.1)
    assert await trio.to_thread.run_sync(ask_admin, path, "status") == {"schema": 1}


async def test_a_level_may_look_and_not_change() -> None:
    commands = Commands()
    commands.add("status", lambda request: {"schema": 1}, Level.USER)
    commands.add("pause", lambda request: {}, Level.ADMIN)
    assert await commands.answer({"command": "status"}, Level.USER) == {"schema": 1}
    with pytest.raises(CommandRefused, match="'pause' needs the level admin, and this is operator"):
        await commands.answer({"command": "pause"}, Level.OPERATOR)


async def test_only_the_owner_may_connect(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600


async def test_a_stale_socket_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "admin.sock").write_text("")
    await _serve(nursery, tmp_path / "admin.sock")
    assert await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "status") == {"schema": 1}


@pytest.mark.parametrize(
    "said", [b"\xff\xfe\x00\n", b"x" * (2 * LINE_BYTES_MAX), b"\n\n\n", b"status", b"{", b"[" * 9000 + b"\n", b"{}\n"]
)
async def test_a_rude_client_harms_nobody_else(tmp_path: Path, nursery: trio.Nursery, said: bytes) -> None:
    path = tmp_path / "admin.sock"
    await _serve(nursery, path)
    rude = await trio.open_unix_socket(path)
    await rude.send_all(said)
    await rude.aclose()
    assert await trio.to_thread.run_sync(ask_admin, path, "status") == {"schema": 1}


def test_a_node_that_does_not_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(AdminUnreachable, match="is it running on this host"):
        ask_admin(tmp_path / "admin.sock", "status")


def test_the_document_is_json_for_other_programs(tmp_path: Path) -> None:
    async def main() -> bytes:
        async with trio.open_nursery() as nursery:
            await _serve(nursery, tmp_path / "admin.sock")
            stream = await trio.open_unix_socket(tmp_path / "admin.sock")
            await stream.send_all(b"status\n")
            line = await stream.receive_some(1000)
            nursery.cancel_scope.cancel()
        return bytes(line)

    assert json.loads(trio.run(main)) == {"schema": 1}
