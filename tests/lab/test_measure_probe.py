"""What a probe's file says of the address."""

import struct

import pytest

from gateway.lab.measure import probe

OLD, NEW = "02:63:67:00:00:5b", "02:63:67:00:00:5c"
MAC = bytes.fromhex("026367000015")
IP = bytes([10, 77, 0, 100])


def recorded(answered: dict[int, str], count: int = 40) -> str:
    """Return a probe's file: a probe every 5 ms from 100.0 s on; `answered`: number -> owners, by comma."""
    lines = []
    for number in range(1, count + 1):
        sent = 100.0 + 0.005 * number
        lines.append(f"s {number} {sent:.6f}")
        if number in answered:
            lines.append(f"e {number} {sent + 0.0001:.6f}")
            lines += [f"a {number} {mac} {sent + 0.0001:.6f}" for mac in answered[number].split(",")]
    return "\n".join(lines)


def test_address_that_always_answers_has_no_blackout():
    text = recorded(dict.fromkeys(range(1, 41), OLD))
    assert probe.blackout_ms(text, 100.0, 101.0) == 0.0
    assert probe.two_owner_ms(text, 100.0, 101.0) == 0.0


def test_blackout_is_the_longest_run_of_lost_probes_between_answered_ones():
    numbers = [*range(1, 11), *range(13, 21), *range(30, 41)]  # 2 lost, then 9 lost
    assert probe.blackout_ms(recorded(dict.fromkeys(numbers, OLD)), 100.0, 101.0) == pytest.approx(50.0)


def test_blackout_that_lasts_to_the_end_counts():
    assert probe.blackout_ms(recorded(dict.fromkeys(range(1, 21), OLD)), 100.0, 101.0) == pytest.approx(100.0)


def test_pause_of_the_probe_itself_is_no_blackout():
    text = "s 1 100.0\ne 1 100.0001\ns 2 100.4\ne 2 100.4001\n"
    assert probe.blackout_ms(text, 100.0, 101.0) == 0.0
    assert probe.late_ms(text, 100.0, 101.0) == pytest.approx(400.0)


def test_answer_that_comes_after_the_limit_is_a_lost_probe():
    text = "s 1 100.0\ne 1 100.0001\ns 2 100.005\ne 2 101.2\ns 3 100.01\ne 3 100.0101\n"
    assert probe.blackout_ms(text, 100.0, 101.0) == pytest.approx(10.0)


def test_two_owners_are_two_answers_to_one_question():
    numbers = dict.fromkeys(range(1, 21), OLD) | {20: f"{OLD},{NEW}", 21: f"{OLD},{NEW}"}
    numbers |= dict.fromkeys(range(22, 41), NEW)
    assert probe.two_owner_ms(recorded(numbers), 100.0, 101.0) == pytest.approx(10.0)


def test_address_that_moves_from_one_to_the_other_never_has_two_owners():
    numbers = dict.fromkeys(range(1, 21), OLD) | dict.fromkeys(range(21, 41), NEW)
    assert probe.two_owner_ms(recorded(numbers), 100.0, 101.0) == 0.0


def test_probe_that_saw_nothing_gives_no_figures():
    assert probe.blackout_ms("", 100.0, 101.0) is None
    assert probe.two_owner_ms(recorded({}), 100.0, 101.0) is None


def segment(flags: int, *, port: int = 9618, number: int = 300_000) -> bytes:
    """Return an IPv4 packet of the gateway's to the probe."""
    source = probe.PORTS[number % len(probe.PORTS)]
    return bytes([0x45]) + bytes(19) + struct.pack("!HHIIBBHHH", port, source, 1, number + 1, 0x50, flags, 1024, 0, 0)


def test_syn_has_a_valid_checksum_and_the_probes_number():
    sent = probe.syn(bytes([10, 77, 0, 21]), IP, 9618, 300_000)
    pseudo = bytes([10, 77, 0, 21]) + IP + struct.pack("!BBH", 0, 6, len(sent))
    assert probe.checksum(pseudo + sent) == 0
    assert struct.unpack_from("!HHI", sent)[1:] == (9618, 300_000)


def test_only_syn_ack_of_the_probed_port_is_an_answer():
    assert probe.syn_answer(segment(0x12), 9618) == 300_000
    assert probe.syn_answer(segment(0x14), 9618) is None  # RST-ACK: the address is there, and nobody behind it
    assert probe.syn_answer(segment(0x12, port=9619), 9618) is None
    assert probe.syn_answer(b"", 9618) is None


def test_arp_answer_names_the_owner_and_announcements_do_not_count():
    owner = bytes.fromhex(OLD.replace(":", ""))
    tail = bytes.fromhex("08060001080006040002") + owner + IP + MAC + bytes([10, 77, 0, 21])
    assert probe.arp_answer(MAC + owner + tail, MAC, IP) == OLD
    assert probe.arp_answer(b"\xff" * 6 + owner + tail, MAC, IP) is None
    assert probe.arp_answer(MAC + owner + tail, MAC, bytes([10, 77, 0, 99])) is None
