"""Streams: one end of a connection, and the moving of bytes from it to the other end.

Rule: at most one buffer (64 KiB) waits for an end that can't take it, and until it is gone nothing more is read for
it: back-pressure reaches the sender through TCP itself.
"""

import errno
import socket
from typing import TYPE_CHECKING

from gateway.relay import sockets
from gateway.relay.engine import BROKEN, READABLE, WRITABLE, Engine

if TYPE_CHECKING:
    from gateway.relay.connection import Connection

BUFFER_BYTES = 65_536
READS_PER_TURN_MAX = 4  # then the others get their turn

# One for the whole process: between a read and its write nothing else runs.
_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)
_NOTHING = memoryview(b"")


class End:
    """One socket of a connection: the client's or the server's."""

    __slots__ = (
        "_connection",
        "_engine",
        "_fd",
        "_mask",
        "_watched",
        "finished",
        "moved",
        "other",
        "pending",
        "shut",
        "sock",
        "wrecked",
    )

    def __init__(self, connection: "Connection", engine: Engine, sock: socket.socket) -> None:
        self.sock = sock
        self.other: End | None = None
        self.pending: memoryview = _NOTHING  # read from the other end, not yet taken by this one
        self.moved = 0  # bytes read from this end
        self.finished = False  # the peer has sent FIN, and we have read it
        self.shut = False  # we have sent FIN
        self.wrecked = False  # nothing can be written any more; what was received may still be read
        self._connection: Connection | None = connection
        self._engine = engine
        self._fd = sock.fileno()
        self._mask = 0
        self._watched = False

    # --- what the engine tells us

    def await_connect(self) -> None:
        """Be told when the connect has succeeded or failed."""
        self.set_mask(WRITABLE)

    def start_reading(self) -> None:
        """Be told of bytes from now on."""
        self.set_mask(READABLE)

    def set_mask(self, mask: int) -> None:
        """Be told of `mask`; of a hang-up and of errors always (epoll_ctl(2))."""
        if mask != self._mask or not self._watched:
            self._mask, self._watched = mask, True
            self._engine.watch(self._fd, mask, self)

    def on_ready(self, events: int) -> None:
        """Move bytes; the engine calls this."""
        connection = self._connection
        assert connection is not None, "a closed end is not watched"
        if not connection.is_open:
            connection.on_unopened(self, events)
            return
        if events & WRITABLE and self.pending:
            self._write_pending()
            if self._connection is None:
                return
        if self._mask & READABLE:
            if events & ~WRITABLE:
                self.pump()
        elif events & BROKEN:
            connection.broke(self)
        elif events & ~WRITABLE and not self._mask & WRITABLE:
            # Shut in both directions, and bytes for the other end still wait: nothing to be told until they are gone.
            self._engine.unwatch(self._fd)
            self._mask, self._watched = 0, False

    # --- from this end to the other

    def pump(self) -> None:
        """Read what has come and write it to the other end.

        Bulk may one day go through a pipe by os.splice instead of this copy: here, when a read fills the buffer.
        """
        other, connection = self.other, self._connection
        assert other is not None
        assert connection is not None
        for _ in range(READS_PER_TURN_MAX):
            try:
                count = self.sock.recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                connection.broke(self)
                return
            if not count:
                self._finished()
                return
            if not self.moved:
                connection.first_bytes_from(self)
            self.moved += count
            if self is connection.client:
                connection.counters.bytes_to_server_total += count
            else:
                connection.counters.bytes_to_client_total += count
            if not other.take(count) or count < BUFFER_BYTES:
                return

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
        self.pending = memoryview(bytes(_view[sent:count]))
        self.set_mask(self._mask | WRITABLE)
        self._require_other()._pause()
        return False

    def _write_pending(self) -> None:
        try:
            sent = self.sock.send(self.pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._write_failed(error)
            return
        self.pending = self.pending[sent:]
        if self.pending:
            return
        self.pending = _NOTHING  # an empty slice would keep the whole buffer
        self.set_mask(self._mask & ~WRITABLE)
        other = self._require_other()
        if other.finished:
            self._shut_down()
        else:
            other._resume()

    def _pause(self) -> None:
        self.set_mask(self._mask & ~READABLE)

    def _resume(self) -> None:
        self.set_mask(self._mask | READABLE)

    def _require_other(self) -> "End":
        assert self.other is not None, "an open connection has two ends"
        return self.other

    # --- ends of the stream

    def _finished(self) -> None:
        """The peer has sent everything: say the same to the other end, once it has taken all."""
        self.finished = True
        if self.wrecked:
            self._abort()
            return
        self._pause()
        other = self._require_other()
        if not other.pending:
            other._shut_down()

    def _shut_down(self) -> None:
        self.shut = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: reset meanwhile
            self._abort()
            return
        connection = self._connection
        if self._require_other().shut and connection is not None:
            connection.finish()

    def _write_failed(self, error: OSError) -> None:
        """This end takes nothing more. What it had sent before may lie unread: an answer in full, then a reset.

        The failed write has consumed the socket's error, so that its reads end as if by FIN: hence `wrecked`.
        """
        other = self._require_other()
        if error.errno in (errno.EPIPE, errno.ECONNRESET) and self._mask & READABLE:
            self.wrecked = True
            self.pending = _NOTHING
            self.set_mask(READABLE)
            other._pause()
        else:
            self._abort()

    def _abort(self) -> None:
        assert self._connection is not None
        self._connection.abort()

    def close(self, *, by_reset: bool) -> None:
        """Close the socket and let go of everything."""
        self._engine.forget(self._fd)
        if by_reset:
            sockets.reset(self.sock)
        else:
            self.sock.close()
        self._connection = self.other = None
        self.pending = _NOTHING
