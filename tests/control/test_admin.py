"""The admin socket: root's, one answer a line, and nothing that a client says can break it."""

import json
import stat
from pathlib import Path

import pytest
import trio

from gateway.console.admin import LINE_BYTES_MAX, AdminUnreachable, ask_admin, serve_admin


async def _serve(nursery: trio.Nursery, path: Path) -> None:
    await nursery.start(serve_admin, path, {"status": lambda: {"schema": 1}})


async def test_a_command_is_answered_with_one_document(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    assert await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "status") == {"schema": 1}


async def test_an_unknown_command_is_told_the_known_ones(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    answer = await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "stats")
    assert answer == {"error": "unknown command 'stats'; known: ['status']"}


async def test_only_the_owner_may_connect(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _serve(nursery, tmp_path / "admin.sock")
    assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600


async def test_a_stale_socket_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "admin.sock").write_text("")
    await _serve(nursery, tmp_path / "admin.sock")
    assert await trio.to_thread.run_sync(ask_admin, tmp_path / "admin.sock", "status") == {"schema": 1}


@pytest.mark.parametrize("said", [b"\xff\xfe\x00\n", b"x" * (2 * LINE_BYTES_MAX), b"\n\n\n", b"status"])
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
