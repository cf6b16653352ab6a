"""Streams: one end of a connection, and the moving of bytes from it to the other end.

Rule: at most one buffer (96 KiB) or one pipe waits for an end that can't take it, and until it is gone nothing more
is read for it: back-pressure reaches the sender through TCP itself.

Both ends are watched edge-triggered (epoll(7)), so that nothing is asked for twice. Hence: who stops reading before
the socket is empty must come back by itself. A read that fills less than it could has emptied the socket, unless the
kernel has said that the peer has shut its side or that the socket broke: then it is read until it says so itself.
"""

import errno
import os
import socket
from typing import TYPE_CHECKING

from gateway.relay import sockets
from gateway.relay.engine import BROKEN, EDGE, HANG_UP, PEER_SHUT, READABLE, WRITABLE
from gateway.relay.pipes import PIPE_BYTES, SPLICE_FLAGS, Pipe, pipes

if TYPE_CHECKING:
    from gateway.relay.moving import Moving

BUFFER_BYTES = (
    98_304  # more than the 64 KiB that programs like to write at once: a read that it does not fill is the last
)
READS_PER_TURN_MAX = 4  # then the others get their turn
FULL_READS_FOR_PIPE = 4  # in a row: it is bulk, and a pipe pays
PIPE_BYTES_MIN = 16_384  # less than this at a time is not bulk any more

READING = READABLE | PEER_SHUT | EDGE
READING_AND_WRITING = READING | WRITABLE
_ENDING = PEER_SHUT | HANG_UP | BROKEN

# One for the whole process: between a read and its write nothing else runs.
_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class End:
    """One socket of a connection: the client's or the server's."""

    __slots__ = (
        "_fd",
        "_full_reads",
        "_watched",
        "blocked",
        "connection",
        "ending",
        "finished",
        "is_client",
        "moved",
        "other",
        "pending",
        "pipe",
        "reported",
        "sock",
        "unread",
        "wrecked",
    )

    def __init__(self, connection: "Moving", sock: socket.SocketType, *, is_client: bool) -> None:
        self.connection: Moving | None = connection
        self.sock = sock
        self.is_client = is_client
        self.other: End | None = None
        self.blocked = False  # `pending` or `pipe` holds what this end could not take, or it is wrecked
        self.pending: memoryview | None = None  # read from the other end, not yet taken by this one
        self.pipe: Pipe | None = None  # the same, in the kernel
        self.moved = 0  # bytes read from this end
        self.reported = False  # the connection wants to hear of what is read
        self.unread = False  # not read until empty since the kernel last spoke
        self.ending = False  # the kernel has said that there is an end to be read
        self.finished = False  # the peer has sent FIN, and we have read it
        self.wrecked = False  # nothing can be written any more; what was received may still be read
        self._fd = sock.fileno()
        self._full_reads = 0
        self._watched = 0

    # --- what the engine tells us

    def watch(self, mask: int = READING) -> None:
        """Be told of changes from now on, the present state included; what was asked for once is never taken back."""
        connection = self.connection
        assert connection is not None
        mask |= self._watched
        if mask != self._watched:
            self._watched = mask
            connection.engine.watch(self._fd, mask, self)

    def on_ready(self, events: int) -> None:
        """Move bytes; the engine calls this."""
        if events & _ENDING:
            self.ending = True
        connection = self.connection
        assert connection is not None, "a closed end is not watched"
        if not connection.is_open:
            if events & ~WRITABLE:
                self.unread = True
            connection.on_unopened(self, events)
            return
        if self.blocked and events & WRITABLE:
            self._write_pending()
            if self.connection is None or not connection.is_open:
                return
        if events & BROKEN and (self.finished or self._require_other().blocked):
            connection.broke(self)
        elif events != WRITABLE and not self.finished:
            self.pump()

    def resume(self) -> None:
        """Read on, where it was interrupted; whatever has happened meanwhile."""
        if self.connection is not None and self.connection.is_open and self.unread and not self.finished:
            self.pump()

    # --- from this end to the other

    def pump(self) -> None:
        """Read what has come and write it to the other end."""
        other, connection = self.other, self.connection
        assert other is not None
        assert connection is not None
        self.unread = True
        if other.blocked:
            return  # goes on when the other has taken what it has
        if self._full_reads >= FULL_READS_FOR_PIPE and self._pump_through_pipe(other, connection):
            return
        counters = connection.counters
        for _ in range(READS_PER_TURN_MAX):
            try:
                count = self.sock.recv_into(_buffer)
            except BlockingIOError:
                self.unread = False
                return
            except OSError:
                connection.broke(self)
                return
            if not count:
                self._finished()
                return
            if self.reported:
                connection.heard(self, _view[:count])
            self.moved += count
            if self.is_client:
                counters.bytes_to_server_total += count
            else:
                counters.bytes_to_client_total += count
            if not other.take(count):
                return
            if count == BUFFER_BYTES:
                self._full_reads += 1
            else:
                self._full_reads = 0
                if not self.ending:
                    self.unread = False
                    return
        connection.engine.soon(self.resume)

    def take(self, count: int) -> bool:
        """Write the first `count` bytes of the buffer to this end; return whether the other may read on."""
        try:
            sent = self.sock.send(_view[:count])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._write_failed(error)
            return False
        if sent == count:
            return True
        self.keep(bytes(_view[sent:count]))
        return False

    def keep(self, data: bytes | memoryview) -> None:
        """Hold `data` until this end can take it."""
        self.pending = memoryview(data)
        self.blocked = True
        self.watch(READING_AND_WRITING)

    def _pump_through_pipe(self, other: "End", connection: "Moving") -> bool:
        """Read and write by splice(2); return False where there is no pipe to be had, or it is not bulk any more."""
        pipe = pipes.take()
        if pipe is None:
            return False
        for _ in range(READS_PER_TURN_MAX):
            try:
                count = os.splice(self._fd, pipe.write_fd, PIPE_BYTES, flags=SPLICE_FLAGS)
            except BlockingIOError:
                pipes.give(pipe)
                self.unread = False
                return True
            except OSError:
                pipes.give(pipe)
                connection.broke(self)
                return True
            if not count:
                pipes.give(pipe)
                self._finished()
                return True
            self._count_spliced(count)
            pipe.held = count
            if not other._take_from(pipe):
                return True
            if count < PIPE_BYTES_MIN:
                self._full_reads = 0
                pipes.give(pipe)
                return False
        pipes.give(pipe)
        connection.engine.soon(self.resume)
        return True

    def _count_spliced(self, count: int) -> None:
        connection = self.connection
        assert connection is not None
        self.moved += count
        counters = connection.counters
        counters.spliced_bytes_total += count
        if self.is_client:
            counters.bytes_to_server_total += count
        else:
            counters.bytes_to_client_total += count

    def _take_from(self, pipe: Pipe) -> bool:
        """Empty `pipe` into this end; return whether it is empty. It is ours if not, or gone with the connection."""
        connection = self.connection
        assert connection is not None
        try:
            while pipe.held:
                pipe.held -= os.splice(pipe.read_fd, self._fd, pipe.held, flags=SPLICE_FLAGS)
        except BlockingIOError:
            self.pipe, self.blocked = pipe, True
            self.watch(READING_AND_WRITING)
            return False
        except OSError as error:
            pipes.give(pipe)
            self.pipe = None
            self._write_failed(error)
            return False
        return True

    def _write_pending(self) -> None:
        if self.wrecked:
            return
        if self.pipe is not None:
            if not self._take_from(self.pipe):
                return
            pipes.give(self.pipe)
            self.pipe = None
        else:
            assert self.pending is not None
            try:
                sent = self.sock.send(self.pending)
            except BlockingIOError:
                return
            except OSError as error:
                self._write_failed(error)
                return
            if sent < len(self.pending):
                self.pending = self.pending[sent:]
                return
            self.pending = None
        self.blocked = False
        other = self._require_other()
        if other.finished:
            self.shut_down()
        elif other.unread:
            other.pump()

    def waiting(self) -> int:
        """Return how many bytes this end has still to take."""
        return (len(self.pending) if self.pending is not None else 0) + (self.pipe.held if self.pipe else 0)

    def _require_other(self) -> "End":
        assert self.other is not None, "an open connection has two ends"
        return self.other

    # --- ends of the stream

    def _finished(self) -> None:
        """The peer has sent everything: say the same to the other end, once it has taken all."""
        connection = self.connection
        assert connection is not None
        if self.wrecked:
            connection.broke(self)
            return
        if connection.takes_end_for_death(self):
            return
        self.finished, self.unread = True, False
        other = self._require_other()
        if not other.blocked:
            other.shut_down()

    def shut_down(self) -> None:
        """Tell the peer that nothing more comes; where it has said so as well, that was all."""
        connection = self.connection
        assert connection is not None
        other = self._require_other()
        if self.finished and other.finished and not (self.blocked or other.blocked):
            connection.finish()  # by close: it sends the FIN
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: reset meanwhile
            connection.broke(self)

    def _write_failed(self, error: OSError) -> None:
        """This end takes nothing more. What it had sent before may lie unread: an answer in full, then a reset.

        The failed write has consumed the socket's error, so that its reads end as if by FIN: hence `wrecked`.
        """
        connection = self.connection
        assert connection is not None
        self.pending = None
        if error.errno in (errno.EPIPE, errno.ECONNRESET) and not self.finished:
            self.wrecked = self.blocked = self.ending = self.unread = True
            connection.engine.soon(self.resume)  # no event comes any more
        else:
            connection.broke(self)

    def let_go(self) -> None:
        """Leave the engine and the connection; the socket stays open, for the caller to close."""
        connection = self.connection
        assert connection is not None
        connection.engine.forget(self._fd)
        if self.pipe is not None:
            pipes.give(self.pipe)
            self.pipe = None
        self.connection = self.other = self.pending = None

    def close(self, *, by_reset: bool) -> None:
        """Close the socket and let go of everything."""
        self.let_go()
        if by_reset:
            sockets.reset(self.sock)
        else:
            self.sock.close()
