"""The collector's probe against listeners of every bad manner. The real collector's answer: test_negotiator.py."""

import pytest
import trio

from gateway.config.settings import Endpoint
from gateway.matchmaker.probe import ProbeFailed, ProbeReason, collector_instance
from gateway.wire.cedar import query_instance_request

ANSWER = bytes.fromhex("01 00000010") + b"0123456789abcdef"


async def listen(nursery, behave):
    """Start a loopback listener whose connections are served by `behave(stream)`; return its endpoint."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, behave, [listener])
    return Endpoint("127.0.0.1", port)


async def failure(endpoint, timeout_ms=500):
    with pytest.raises(ProbeFailed) as failed:
        await collector_instance(endpoint, timeout_ms=timeout_ms)
    return failed.value.reason


async def test_answer_in_single_bytes_is_the_instance(nursery):
    asked = bytearray()

    async def behave(stream):
        while len(asked) < len(query_instance_request()):
            asked.extend(await stream.receive_some())
        for byte in ANSWER:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.001)

    endpoint = await listen(nursery, behave)
    assert await collector_instance(endpoint, timeout_ms=2000) == "0123456789abcdef"
    assert asked == query_instance_request()


async def test_nobody_listening_is_refused():
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port meanwhile
        assert await failure(Endpoint("127.0.0.1", sock.getsockname()[1])) is ProbeReason.REFUSED


async def test_silence_ends_at_the_deadline(nursery):
    async def behave(stream):
        await trio.sleep_forever()

    endpoint = await listen(nursery, behave)
    with trio.fail_after(5):
        assert await failure(endpoint, timeout_ms=50) is ProbeReason.TIMED_OUT


async def test_hanging_up_is_closed(nursery):
    async def behave(stream):
        await stream.receive_some()
        await stream.send_all(ANSWER[:7])

    assert await failure(await listen(nursery, behave)) is ProbeReason.CLOSED


async def test_reset_is_closed(nursery):
    async def behave(stream):
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.receive_some(1)
        await stream.aclose()

    assert await failure(await listen(nursery, behave)) is ProbeReason.CLOSED


async def test_a_stranger_is_malformed(nursery):
    async def behave(stream):
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
        await trio.sleep_forever()

    assert await failure(await listen(nursery, behave)) is ProbeReason.MALFORMED


async def test_unreachable_address_is_named():
    # RFC 5737 TEST-NET-1 would leave this machine; an unspecified IPv6 scope does not: the kernel refuses it at once.
    assert await failure(Endpoint("fe80::1", 9618)) is ProbeReason.UNREACHABLE
