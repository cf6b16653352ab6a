"""Which first bytes of a client may be said to a second server."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.hello import is_replayable_untrusted

# What condor_status of HTCondor 25.14.1 says first, taken from its socket; the keys are its own, made for that one try.
NEW_SESSION_AD = (
    b'Enact = "NO"\0Command = 5\0Integrity = "OPTIONAL"\0ServerPid = 26946\0Subsystem = "TOOL"\0'
    b'Encryption = "OPTIONAL"\0NewSession = "YES"\0AuthMethods = "FS,TOKEN,KERBEROS,SCITOKENS,SSL"\0'
    b'TrustDomain = "vm"\0'
    b'SessionLease = 3600\0ConnectSinful = "<127.0.0.1:52697>"\0CryptoMethods = "AES,BLOWFISH,3DES"\0'
    b'ECDHPublicKey = "BLH40MbVRmLU50jk4l0Il6uPulWGFQzWFUBPpNP9HS3YbjiJG+iEqf8cpGSVOzWrdoHls2YuUdKdREDaIdXHDIQ="\0'
    b'RemoteVersion = "$CondorVersion: 25.14.1 2026-10-16 PackageID: 25.14.1+dfsg-1 $"\0Authentication = "OPTIONAL"\0'
    b'SessionDuration = "60"\0AuthenticationNew = "OPTIONAL"\0NegotiatedSession = true\0'
    b'OutgoingNegotiation = "PREFERRED"\0'
)
NEW_SESSION = bytes.fromhex("010000027a") + struct.pack("!qq", 60010, 19) + NEW_SESSION_AD + b"\0\0"
SHARED_PORT = bytes.fromhex("0100000027") + struct.pack("!q", 75) + b"collector\0TOOL\0" + struct.pack("!qq", 60, 0)
# The same question without a session (SEC_CLIENT_NEGOTIATION = NEVER).
RAW_QUERY = (
    bytes.fromhex("01000000d0")
    + struct.pack("!qq", 5, 4)
    + b'MyType = "Query"\0Projection = "Activity Arch CondorLoadAvg EnteredCurrentActivity LastHeardFrom Machine '
    + b'Memory MyCurrentTime Name OCU OpSys State"\0TargetType = "Machine"\0Requirements = true\0\0\0'
)


def message(payload, packet_bytes=1 << 20):
    """A CEDAR message in packets of at most `packet_bytes`."""
    pieces = [payload[at : at + packet_bytes] for at in range(0, len(payload), packet_bytes)]
    return b"".join(
        struct.pack("!BI", number == len(pieces), len(piece)) + piece for number, piece in enumerate(pieces, 1)
    )


def authenticate(*attributes, command=60010):
    return struct.pack("!qq", command, len(attributes)) + b"".join(each + b"\0" for each in attributes) + b"\0\0"


def test_captures_are_what_they_say():
    assert len(NEW_SESSION) == 639
    assert len(SHARED_PORT + NEW_SESSION) == 683
    assert len(RAW_QUERY) == 213


def test_new_session_is_replayable():
    assert is_replayable_untrusted(NEW_SESSION)


def test_new_session_behind_a_shared_port_is_replayable():
    assert is_replayable_untrusted(SHARED_PORT + NEW_SESSION)


def test_new_session_in_several_packets_is_replayable():
    assert is_replayable_untrusted(message(NEW_SESSION[5:], packet_bytes=100))


def test_new_session_of_a_daemon_that_resumes_none_is_replayable():
    assert is_replayable_untrusted(message(authenticate(b'NewSession="YES"', b'UseSession="NO"', b"Command=0")))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(RAW_QUERY, id="raw command: it has acted when it is read"),
        pytest.param(SHARED_PORT + RAW_QUERY, id="raw command behind a shared port"),
        pytest.param(SHARED_PORT, id="shared port alone: what follows decides"),
        pytest.param(SHARED_PORT + SHARED_PORT + NEW_SESSION, id="two shared ports"),
        pytest.param(message(authenticate(b'UseSession = "YES"', b'Sid = "cm:1:2:3"')), id="resumed session"),
        pytest.param(
            message(authenticate(b'NewSession = "YES"', b'UseSession = "YES"', b'Sid = "cm:1:2:3"')), id="both at once"
        ),
        pytest.param(message(authenticate(b'NewSession = "NO"')), id="no new session"),
        pytest.param(message(authenticate(b'NewSession = "NO"', b'NewSession = "YES"')), id="said twice"),
        pytest.param(message(authenticate(b'NewSession = "YES"', command=60011)), id="another command"),
        pytest.param(NEW_SESSION + RAW_QUERY, id="a command has followed already"),
        pytest.param(NEW_SESSION + b"\1", id="something has followed already"),
        pytest.param(message(NEW_SESSION[5:] + b"\0"), id="more in the message than its advertisement"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_everything_else_is_not(data):
    assert not is_replayable_untrusted(data)


def test_new_session_that_is_cut_short_is_not_replayable_however_short():
    whole = SHARED_PORT + NEW_SESSION
    assert not any(is_replayable_untrusted(whole[:length]) for length in range(len(whole)))


@given(st.binary(max_size=2_000))
def test_any_bytes_are_judged_without_an_error(data):
    assert not is_replayable_untrusted(data)


@given(st.data())
def test_broken_openings_are_judged_without_an_error(data):
    whole = bytearray(SHARED_PORT + NEW_SESSION)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    assert is_replayable_untrusted(bytes(whole)) in (True, False)


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=100))
def test_counts_of_attributes_are_not_believed(count, rest):
    assert is_replayable_untrusted(message(struct.pack("!qq", 60010, count) + rest)) in (True, False)
