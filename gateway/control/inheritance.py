"""Inheritance: how one control process hands its node to the next, through a socket pair that the guard gave them.

Rule: whatever goes wrong before the old one has let go changes nothing; after that the old one ends in any case, and
the guard does its will unless the new one has said that it acts.

    old                                            new
    offer: the node as it is        ────────────▶  would it fit the new file?
    let go, when no act is under way  ◀──────────  ready (or: refused, and why)
    all of it, with the open sockets  ──────────▶  take over; tell the guard
    end                               ◀──────────  done
"""

import socket

import msgspec
import trio

from gateway.core.snapshot import NodeState
from gateway.wire.seal import SealState

MESSAGE_BYTES_MAX = 131_072  # sixteen elections of nine nodes take some 20 KB
DESCRIPTORS_MAX = 66  # two lanes of heartbeats, and as many relays as the configuration allows; the kernel takes 253
FORMAT = 2  # of what is handed over; grows when the one before could not be read
ANSWER_S_MAX = 60.0  # for a new process to be ready: HTCondor's tools may take 20 s of a start
SETTLE_S_MAX = 2.0  # for an election that is under way to end
DONE_S_MAX = 2.0  # for the new one to say that it acts


class TakeOverFailed(Exception):  # noqa: N818 (an answer to the operator)
    """One process could not take another's place; the text says why."""


class RelayWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One relay process that runs."""

    number: int  # among the workers
    token: int  # the guard's name for it
    pid: int


class RelayState(msgspec.Struct, frozen=True, kw_only=True):
    """The relay processes that run, and what they were told last."""

    workers: tuple[RelayWorker, ...]  # in the order of their sockets
    routes: dict[str, tuple[str | None, int, int]]  # route -> last server's host and port, epoch


class MatchmakerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager's service has found out about its host."""

    instance: str
    warm_instance: str
    collector_up: bool
    unfit_until_ms: int
    cool_off_ms: int


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """From the old process: this is what there is to take over."""

    cluster: str
    addresses: dict[str, str]  # those that it holds: name -> where
    node: NodeState
    format: int = 1  # of the estate: told while the old process can still go on


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """From the new process: "" and it is ready; else why it is not."""

    refused: str


class Estate(msgspec.Struct, frozen=True, tag="estate", kw_only=True):
    """From the old process, which has let go: everything. The heartbeat sockets go along, then the relays'."""

    lanes: int  # how many heartbeat sockets
    node: NodeState
    seal: SealState
    relay: RelayState
    matchmakers: dict[str, MatchmakerState]
    history_seq: int = 0  # number of the last event that was told


class Done(msgspec.Struct, frozen=True, tag="done"):
    """From the new process: it acts."""


Message = Offer | Answer | Estate | Done

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of the socket pair between the two processes."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    def close(self) -> None:
        """Close this end: the other takes it for a failure."""
        self._end.close()

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Say one thing. It never waits: the queue holds more than is ever said.

        Raises:
            TakeOverFailed: the other process has ended.
        """
        data = _encoder.encode(message)
        assert len(data) <= MESSAGE_BYTES_MAX, f"{len(data)} bytes to hand over"
        try:
            socket.send_fds(self._end, [data], list(descriptors), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise TakeOverFailed(f"the other process can't be told: {error.strerror}") from error

    async def receive(self, limit_s: float) -> tuple[Message, list[int]]:
        """Return what the other process says next, with the descriptors that go along.

        Raises:
            TakeOverFailed: it has ended, or says nothing for `limit_s`.
        """
        with trio.move_on_after(limit_s):
            await trio.lowlevel.wait_readable(self._end)
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
            except OSError:
                data, descriptors = b"", []
            if not data:
                raise TakeOverFailed("the other process has ended")
            try:
                return _decoder.decode(data), descriptors
            except msgspec.MsgspecError as error:
                raise TakeOverFailed(
                    f"the other process is of a version that hands over otherwise ({error})"
                ) from error
        raise TakeOverFailed(f"the other process has said nothing for {limit_s:g} s")

    async def receive_estate(self) -> tuple[Estate, list[int]]:
        """Return what the old process leaves. Raises `TakeOverFailed`."""
        message, descriptors = await self.receive(ANSWER_S_MAX)
        if not isinstance(message, Estate):
            raise TakeOverFailed(f"the running process says {type(message).__name__} instead of what it leaves")
        return message, descriptors
