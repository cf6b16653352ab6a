"""Pipes for bulk: the kernel moves pages from one socket to the other without copying them through this process.

Rule: a pipe in the pool is empty. One that still holds bytes when its connection ends is closed, not given back.
"""

import contextlib
import fcntl
import os

# In bytes; a page each for what comes in small segments. The kernel's limit for those without privileges is 1 MiB
# (fs.pipe-max-size), and 64 MiB of all pipes of a user (fs.pipe-user-pages-soft).
PIPE_BYTES = 262_144
PIPES_MAX = 32  # two descriptors each. Who finds none copies, as everybody did before: nobody waits for one.
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """One pipe: bytes go into `write_fd`, and come out of `read_fd`."""

    __slots__ = ("held", "read_fd", "write_fd")

    def __init__(self) -> None:
        """Raises `OSError` (EMFILE, ENFILE)."""
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0  # bytes inside
        with contextlib.suppress(OSError):  # EPERM: over the user's share; every pipe has 64 KiB
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        """Close both ends; what it holds is lost."""
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """A bounded number of pipes."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._made = 0

    def take(self) -> Pipe | None:
        """Return an empty pipe; None where there is none to be had."""
        if self._free:
            return self._free.pop()
        if self._made >= PIPES_MAX:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self._made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take `pipe` back; it is closed where it still holds bytes."""
        if pipe.held:
            pipe.close()
            self._made -= 1
        else:
            self._free.append(pipe)


pipes = Pipes()  # of the whole process
