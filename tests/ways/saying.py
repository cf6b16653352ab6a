"""What clients and servers say, how it is told apart, and how it ends."""

import hashlib
import random
import socket
import struct

import trio


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made(seed: int, count: int) -> bytes:
    """Return bytes that no other seed has."""
    return random.Random(seed).randbytes(count)


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Read so many bytes; fewer at an end."""
    heard = bytearray()
    while len(heard) < count and (chunk := await stream.receive_some(count - len(heard))):
        heard += chunk
    return bytes(heard)


async def hashed(stream: trio.SocketStream) -> str:
    """Read to the end; return the hash of it."""
    heard = hashlib.sha256()
    while chunk := await stream.receive_some(256 * 1024):
        heard.update(chunk)
    return heard.hexdigest()


async def say(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()


def reset(stream: trio.SocketStream) -> None:
    """Close by a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def opening(*attributes: bytes) -> bytes:
    """Return DC_AUTHENTICATE with these attributes, as one CEDAR message."""
    body = struct.pack("!qq", 60010, len(attributes)) + b"".join(one + b"\0" for one in attributes) + b"\0\0"
    return struct.pack("!BI", 1, len(body)) + body


# The first bytes of a new security session, as HTCondor's client says them: the one thing that may be said twice.
NEW_SESSION = opening(b'NewSession = "YES"', b"Command = 5", b'AuthMethods = "FS,TOKEN"')
