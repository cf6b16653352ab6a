"""Many questions over one socket: what the console process asks its node, and follows, at the same time.

Rule: the node decides what the console may ask: whatever level a request claims, `level_max` is the most that it gets.

Each line is a JSON object with an `id` of the asker's choice:

    asker -> node   {"id", "level", "request"}    and {"id", "cancel": true}, which ends what is asked
    node -> asker   {"id", "answer"}              one document, the end
                    {"id", "item"}                one of a stream, whose end is {"id", "end": true}
                    {"id", "error", "reason"}     a refusal, the end
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import structlog
import trio

from gateway.console.admin import ANSWER_BYTES_MAX, LINE_BYTES_MAX, encoded
from gateway.control.commands import CommandRefused, Commands, Level, Request

ASKED_MAX = 64  # at the same time: every reader of the page and of the stats sockets shares what is asked
ITEMS_WAITING_MAX = 1_000  # events that nobody has taken yet; then the stream ends, to be begun anew
WAIT_S_MAX = 5.0  # for a document; the node answers in milliseconds unless it waits for something itself


class NodeSilent(CommandRefused):
    """The node does not answer in time, or has gone. Its reason is "unanswered"."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, "unanswered")


class _LineWriter:
    """Documents on a stream, a line each, written by a task of its own.

    Whoever says one may be cancelled at any moment: a line is not begun then, or it is written to its end all the same.
    Half a line would make nonsense of it and of the next one.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._put, self._taken = trio.open_memory_channel[bytes](0)

    async def run(self) -> None:
        """Write what is said; return when the other side has gone."""
        with self._taken, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for line in self._taken:
                await self._stream.send_all(line)

    async def say(self, document: dict[str, Any]) -> None:
        """Say a document, behind those that wait; nothing where the other side has gone, which who reads finds out."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._put.send(encoded(document) + b"\n")


# -- the node's end ----------------------------------------------------------------------------------------------------


async def serve_multiplexed(stream: trio.SocketStream, commands: Commands, level_max: Level) -> None:
    """Answer one console until it goes away or says something that is no request."""
    writer = _LineWriter(stream)  # a console that does not read holds up its own answers alone
    say = writer.say
    asked: dict[int, trio.CancelScope] = {}

    async def write() -> None:
        await writer.run()
        nursery.cancel_scope.cancel()  # it has gone, whatever it was to be told

    async def stream_out(number: int, found: AsyncIterable[dict[str, Any]]) -> None:
        try:
            async for item in found:
                await say({"id": number, "item": item})
        finally:
            if isinstance(found, AsyncGenerator):
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await found.aclose()
        await say({"id": number, "end": True})

    async def answer(number: int, level: Level, request: Request) -> None:
        with asked[number]:
            try:
                found = await commands.answer(request, min(level, level_max))
                if isinstance(found, AsyncIterable):
                    await stream_out(number, found)
                else:
                    await say({"id": number, "answer": found})
            except CommandRefused as refusal:
                await say({"id": number, "error": str(refusal), "reason": refusal.reason})
            except Exception as error:  # noqa: BLE001 (what a console asks must not end its node)
                structlog.get_logger().exception("command.failed", command=request.get("command"))
                await say({"id": number, "error": f"the command failed: {error!r}", "reason": "failed"})
        del asked[number]

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        async for line in _lines(stream, LINE_BYTES_MAX):
            said = _asked_untrusted(line)
            if said is None:
                break
            number, level, request = said
            if request is None:
                if number in asked:
                    asked[number].cancel()
            elif number in asked or len(asked) >= ASKED_MAX:
                await say({"id": number, "error": f"more than {ASKED_MAX} questions at once", "reason": "busy"})
            else:
                asked[number] = trio.CancelScope()  # here: the next line may be read before the task has begun
                nursery.start_soon(answer, number, level, request)
        nursery.cancel_scope.cancel()


def _asked_untrusted(line: bytes) -> tuple[int, Level, Request | None] | None:
    """Return what a line asks (no request: an end is wanted); None where it is nonsense."""
    try:
        said = json.loads(line)
        if said.get("cancel"):
            return int(said["id"]), Level.USER, None
        if not isinstance(said["request"], dict):
            return None
        return int(said["id"]), Level.of(said["level"]), said["request"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


async def _lines(stream: trio.SocketStream, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield whole lines until the stream ends, or one is too long."""
    waiting = bytearray()
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while len(waiting) <= bytes_max:
            data = await stream.receive_some(65_536)
            if not data:
                return
            searched = len(waiting)
            waiting += data
            while (end := waiting.find(b"\n", searched)) >= 0:
                line = bytes(waiting[:end])
                del waiting[: end + 1]
                searched = 0
                yield line


# -- the console's end -------------------------------------------------------------------------------------------------


class Asker:
    """Asks a node over one stream. `run` must run; when it returns the node has gone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._writer = _LineWriter(stream)
        self._next = 1
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._gone = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take answers to where they are waited for, until the node closes the stream."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run)
                async for line in _lines(self._stream, ANSWER_BYTES_MAX):
                    self._take(json.loads(line))
                nursery.cancel_scope.cancel()
        finally:
            self._gone = True
            for number in list(self._waiting):
                self._forget(number)

    def _take(self, said: dict[str, Any]) -> None:
        channel = self._waiting.get(said["id"])
        if channel is None:
            return  # whoever asked has given up
        try:
            channel.send_nowait(said)
        except (trio.WouldBlock, trio.ClosedResourceError):
            channel.close()  # its reader finds the end, and cancels it
        if "item" not in said:
            self._forget(said["id"])  # that was its end

    async def ask(self, request: Request, level: Level, *, wait_s: float = WAIT_S_MAX) -> Any:
        """Ask once and return the answer.

        Raises:
            CommandRefused: the node refuses.
            NodeSilent: no answer within `wait_s`, or the node has gone.
        """
        with trio.move_on_after(wait_s):
            async with self._asked(request, level, 1) as answers:
                async for said in answers:
                    return _found(said)["answer"]
            raise NodeSilent("the node has ended")
        raise NodeSilent(f"the node did not answer within {wait_s:g} s")

    @contextlib.asynccontextmanager
    async def following(self, request: Request, level: Level) -> AsyncIterator[AsyncIterator[Any]]:
        """Have the documents of a stream; they end with the stream, or when too many have been left waiting.

        Raises:
            CommandRefused: the node refuses; where the documents are taken.
        """
        async with self._asked(request, level, ITEMS_WAITING_MAX) as answers:

            async def items() -> AsyncIterator[Any]:
                async for said in answers:
                    if "item" not in _found(said):
                        return
                    yield said["item"]

            yield items()

    @contextlib.asynccontextmanager
    async def _asked(
        self, request: Request, level: Level, waiting_max: int
    ) -> AsyncIterator[trio.MemoryReceiveChannel[dict[str, Any]]]:
        number, self._next = self._next, self._next + 1
        sending, answers = trio.open_memory_channel[dict[str, Any]](waiting_max)
        try:
            if self._gone:
                sending.close()
            else:
                self._waiting[number] = sending
                await self._writer.say({"id": number, "level": level.name.lower(), "request": request})
            yield answers
        finally:
            if number in self._waiting:  # not answered to the end
                self._forget(number)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await self._writer.say({"id": number, "cancel": True})

    def _forget(self, number: int) -> None:
        channel = self._waiting.pop(number, None)
        if channel is not None:
            channel.close()


def _found(said: dict[str, Any]) -> dict[str, Any]:
    if "error" in said:
        raise CommandRefused(said["error"], said.get("reason", "refused"))
    return said
