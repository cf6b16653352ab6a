"""The first bytes of a new security session, as HTCondor's client says them: the one thing that may be said twice."""

import struct


def opening(*attributes: bytes) -> bytes:
    """Return DC_AUTHENTICATE with these attributes, as one CEDAR message."""
    body = struct.pack("!qq", 60010, len(attributes)) + b"".join(one + b"\0" for one in attributes) + b"\0\0"
    return struct.pack("!BI", 1, len(body)) + body


NEW_SESSION = opening(b'NewSession = "YES"', b"Command = 5", b'AuthMethods = "FS,TOKEN"')
