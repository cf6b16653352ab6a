"""Inotify: waits until a file may have changed, without looking at it again and again.

Rule: it may wake in vain, and never sleeps through a change by this host's processes (inotify(7); a change that another
host makes on a shared file system is not seen).
"""

import ctypes
import os
import struct

import trio

# sys/inotify.h
_MODIFY, _MOVED_TO, _CREATE = 0x2, 0x80, 0x100
_MOVE_SELF = 0x800  # the folder has another name now: what is made under the old one is not seen
_Q_OVERFLOW, _IGNORED = 0x4000, 0x8000  # events were lost; the folder is gone
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_READ_BYTES = 65_536

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class FileWatch:
    """Watches one file by its name: it may be written to, replaced, or made only later. The folder must exist.

    Raises:
        OSError: no such folder, or the limits of inotify(7) are reached.
    """

    def __init__(self, path: str) -> None:
        folder, name = os.path.split(os.path.abspath(path))
        self._name = os.fsencode(name)
        self.lost = False  # the folder is gone: nothing more will be said
        self._fd: int = _libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no inotify to be had")
        if _libc.inotify_add_watch(self._fd, os.fsencode(folder), _MODIFY | _MOVED_TO | _CREATE | _MOVE_SELF) < 0:
            error = ctypes.get_errno()
            self.close()
            raise OSError(error, os.strerror(error), folder)

    async def changed(self) -> None:
        """Wait until the file may have changed since the last call, or since the watch began."""
        while True:  # ends with an event that concerns the file
            await trio.lowlevel.wait_readable(self._fd)
            if self._take():
                return

    def _take(self) -> bool:
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        at, concerned = 0, False
        while at < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            name = events[at : at + length].rstrip(b"\0")
            at += length
            self.lost = self.lost or bool(mask & (_IGNORED | _MOVE_SELF))
            concerned = concerned or self.lost or name == self._name or bool(mask & _Q_OVERFLOW)
        return concerned

    def close(self) -> None:
        """Give the file descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
