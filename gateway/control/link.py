"""The cluster link: what one node asks of another, over TCP, sealed with the cluster's keys; and the answers to others.

Rule: a node that is dead, hung or cut off costs whoever asks it the deadline, and nobody else anything. What may be
asked is what may be asked at the other node's own admin socket; streams are not carried.
"""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterable
from typing import Any, Final

import msgspec
import structlog
import trio

from gateway.config.settings import Peer, Settings
from gateway.control.commands import CommandRefused, Commands, Level, Request
from gateway.matchmaker.stream import ENDINGS, HANDSHAKE_MS, Lost, reason_of, receive_exactly
from gateway.wire import channel as sealed
from gateway.wire import link as wire
from gateway.wire.channel import LINK_MAGIC, Channel, Side
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring

CONNECT_MS: Final = 1_000  # one lost SYN is sent again within it; a process that is being replaced listens again
CLOSED: Final = "it closed the connection: are the keys and the cluster's name the same there?"
RETRY_MS: Final = 20  # while nobody listens
STALL_MS: Final = 3_000  # one frame, 64 KiB at most, into the socket
PEERS_WAIT_S: Final = 3.0
PEERS_WAIT_S_MAX: Final = 30.0  # a node that looks its whole host over takes seconds
PEERS_BYTES_MAX: Final = 3 * 1024 * 1024  # of all answers together, with room for what stands around them
_RECEIVE_BYTES: Final = 256 * 1024


class Unanswered(Exception):  # noqa: N818 (an answer to the operator)
    """Another node did not answer; says which, and why."""


class ClusterLink:
    """One node's way to ask the others, and theirs to ask it.

    Args:
        settings: who the nodes are.
        me: this one.
        keyring: the cluster's keys.
        commands: what this node answers.
    """

    def __init__(self, settings: Settings, me: Peer, keyring: Keyring, commands: Commands) -> None:
        self._cluster = settings.cluster
        self._me = me.name
        self._peers = {peer.name: peer.endpoint for peer in settings.peers if peer.name != me.name}
        self._keyring = keyring
        self._commands = commands
        self.refused: Counter[str] = Counter()
        self.answered_total = 0
        self._log = structlog.get_logger()

    @property
    def others(self) -> tuple[str, ...]:
        """Every node but this one."""
        return tuple(self._peers)

    def status(self) -> dict[str, Any]:
        """Return what an operator sees of the questions of other nodes."""
        return {"answered_total": self.answered_total, "refused_total": dict(self.refused)}

    # -- asking --------------------------------------------------------------------------------------------------

    async def ask(self, node: str, request: Request, wait_s: float, level: Level = Level.ADMIN) -> dict[str, Any]:
        """Ask another node, permitting ourselves `level`; return its answer within `wait_s`.

        Raises:
            CommandRefused: it refuses.
            Unanswered: it does not answer, or nothing that could be believed.
        """
        return wire.document_untrusted(await self._ask_checked(node, request, wait_s, level))

    async def _ask_checked(self, node: str, request: Request, wait_s: float, level: Level) -> bytes:
        """As `ask`; return the answer as it came."""
        try:
            with trio.fail_after(wait_s):
                answer = await self._ask(node, request, wait_s, level)
            said = wire.document_untrusted(answer)
        except trio.TooSlowError as error:
            raise Unanswered(f"'{node}' does not answer: nothing within {wait_s:g} s") from error
        except ENDINGS as ending:
            raise Unanswered(f"'{node}' does not answer: {reason_of(ending)}") from ending
        if "error" in said:
            raise CommandRefused(str(said["error"]), str(said.get("reason", "refused")))
        return answer

    async def _ask(self, node: str, request: Request, wait_s: float, level: Level) -> bytes:
        try:
            text = msgspec.json.encode(request)
        except (ValueError, RecursionError) as error:  # half a character, as "\ud800", is JSON, and no text
            raise CommandRefused(f"this can't be asked of another node: {error}", "malformed") from None
        if len(text) > wire.REQUEST_BYTES_MAX:
            raise CommandRefused(f"a request of {len(text)} bytes; at most {wire.REQUEST_BYTES_MAX}", "too-long")
        stream = await self._connect(node)
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                opened = sealed.opening(self._keyring, self._cluster, _nonce(), LINK_MAGIC)
                await stream.send_all(opened)
                answered = await receive_exactly(stream, sealed.ANSWERING_BYTES)
            channel = wire.link_channel(self._keyring, self._cluster, Side.SENDER, opened, answered)
            wait_ms = min(max(round(wait_s * 1000), 1), wire.WAIT_MS_MAX)
            await stream.send_all(channel.seal(wire.Ask(self._me, node, level.value, wait_ms, text)))
            joined = wire.Joined()
            while not joined.whole:  # ends with the answer, the connection, or the deadline of whoever asks
                data = await stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    raise Lost(CLOSED)
                for message in channel.receive_untrusted(data):
                    joined.take_untrusted(message)
            return joined.answer
        except (trio.BrokenResourceError, Lost):
            raise Lost(CLOSED) from None
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self, node: str) -> trio.SocketStream:
        endpoint = self._peers[node]
        until = trio.current_time() + CONNECT_MS / 1000
        while True:  # ends with the deadline
            try:
                with trio.fail_at(until):
                    return await trio.open_tcp_stream(endpoint.host, endpoint.port)
            except trio.TooSlowError:
                raise Lost(f"no connection to {endpoint.host} within {CONNECT_MS} ms") from None
            except OSError:
                if trio.current_time() + RETRY_MS / 1000 >= until:
                    raise
                await trio.sleep(RETRY_MS / 1000)

    async def ask_all(self, request: Request, wait_s: float, level: Level) -> dict[str, Any]:
        """Ask every other node at once; return node -> its answer, or {"error", "reason"}."""
        answers: dict[str, Any] = {}
        bytes_total = 0

        async def ask(node: str) -> None:
            nonlocal bytes_total
            try:
                text = await self._ask_checked(node, request, wait_s, level)
            except CommandRefused as refusal:
                answers[node] = {"error": str(refusal), "reason": refusal.reason}
            except Unanswered as unanswered:
                answers[node] = {"error": str(unanswered), "reason": "unanswered"}
            else:
                bytes_total += len(text)
                answers[node] = (
                    wire.document_untrusted(text)
                    if bytes_total <= PEERS_BYTES_MAX
                    else {"error": f"{len(text)} bytes are too much beside the others: ask it there", "reason": "full"}
                )

        async with trio.open_nursery() as nursery:
            for node in self._peers:
                nursery.start_soon(ask, node)
        return {node: answers[node] for node in self._peers}

    async def answer_peers(self, request: Request) -> dict[str, Any]:
        """Answer `peers`: what all others answer to one request, which may look and nothing else."""
        asked = request.get("request")
        if isinstance(asked, str):
            asked = {"command": asked}
        if not isinstance(asked, dict) or not isinstance(asked.get("command"), str):
            raise CommandRefused("'peers' takes a \"request\": a command's name, or a request", "malformed")
        if asked["command"] == "peers":  # each of them would ask all others again, and so on
            raise CommandRefused("'peers' asks each node for what it knows itself: not for 'peers'", "malformed")
        wait_s = request.get("wait_s", PEERS_WAIT_S)
        if not isinstance(wait_s, int | float) or not 0 < wait_s <= PEERS_WAIT_S_MAX:
            raise CommandRefused(
                f"'wait_s' is how long to wait: more than 0 s, {PEERS_WAIT_S_MAX:g} at most", "malformed"
            )
        return await self.ask_all(asked, float(wait_s), Level.USER)

    # -- being asked ---------------------------------------------------------------------------------------------

    async def serve(self, stream: trio.SocketStream, began: bytes) -> None:
        """Answer one question of another node; for the door."""
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                channel, ask = await self._hear_untrusted(stream, began)
            self.answered_total += 1
            await self._answer(stream, channel, ask)
        except ENDINGS as ending:
            if isinstance(ending, Malformed):
                self.refused[str(ending.reason)] += 1
            elif isinstance(ending, trio.TooSlowError):
                self.refused["silent"] += 1
            self._log.info("link.ended", reason=reason_of(ending))

    async def _hear_untrusted(self, stream: trio.SocketStream, began: bytes) -> tuple[Channel[wire.Message], wire.Ask]:
        opened = await receive_exactly(stream, sealed.OPENING_BYTES, began)
        answered = sealed.answering(_nonce(), LINK_MAGIC)
        channel = wire.link_channel(self._keyring, self._cluster, Side.RECEIVER, opened, answered)
        await stream.send_all(answered)
        while True:  # ends with a message, the connection, or the deadline
            data = await stream.receive_some(_RECEIVE_BYTES)
            if not data:
                raise Lost("closed by the other side")
            for message in channel.receive_untrusted(data):
                if not isinstance(message, wire.Ask) or message.receiver != self._me:
                    raise Malformed(Reason.BAD_SEQUENCE, f"{type(message).__name__} instead of a question to me")
                if message.sender not in self._peers:
                    raise Malformed(Reason.UNKNOWN_PEER, repr(message.sender))
                return channel, message

    async def _answer(self, stream: trio.SocketStream, channel: Channel[wire.Message], ask: wire.Ask) -> None:
        """Answer, unless whoever asks goes away or has stopped waiting before there is an answer."""
        request, text = wire.document_untrusted(ask.request), b""
        with trio.move_on_after(ask.wait_ms / 1000) as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with_asker, stream, waiting)
                text = await self._carry_out(request, Level(ask.level))
                nursery.cancel_scope.cancel()
        for part in wire.parts(text) if text else ():
            with trio.fail_after(STALL_MS / 1000):
                await stream.send_all(channel.seal(part))

    async def _carry_out(self, request: Request, level: Level) -> bytes:
        try:
            answer = await self._commands.answer(request, level)
            if isinstance(answer, AsyncIterable):
                raise CommandRefused("a stream is not carried between nodes: ask for it there", "no-stream")
            text = msgspec.json.encode(answer)
            if len(text) > wire.ANSWER_BYTES_MAX:
                raise CommandRefused(f"an answer of {len(text)} bytes; at most {wire.ANSWER_BYTES_MAX}", "too-long")
        except CommandRefused as refusal:
            text = msgspec.json.encode({"error": str(refusal), "reason": refusal.reason})
        except Exception as error:  # noqa: BLE001 (a mistake in a command of ours must not end a node from afar)
            self._log.exception("command.failed", command=request.get("command"))
            text = msgspec.json.encode({"error": f"the command failed: {error!r}", "reason": "failed"})
        return text


async def _end_with_asker(stream: trio.SocketStream, waiting: trio.CancelScope) -> None:
    """End the waiting when the other side goes; one question a connection: nothing else is expected of it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.receive_some(1)
    waiting.cancel()


def _nonce() -> bytes:
    return os.urandom(sealed.NONCE_BYTES)
