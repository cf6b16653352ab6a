"""The figures of the address scenarios from recorded probes and frames, and the table and plan around them."""

import argparse
import json
from types import SimpleNamespace

import pytest

from gateway.lab import keepalived
from gateway.lab.errors import LabError
from gateway.lab.measure import address_command, address_scenarios, command, pulse, sightings, takeovers
from gateway.lab.measure.address_scenarios import AddressRun, Fault, cases_of
from gateway.lab.measure.address_table import table
from gateway.lab.measure.records import Result, json_line, percentile
from gateway.lab.measure.sightings import Sightings

CONTENDER = SimpleNamespace(name="ours", heartbeat_ms=100, lease_ms=300, segment=None)


def probes(*answered: tuple[float, float], until: float = 10.0, every: float = 0.002) -> Sightings:
    """Probes from 0 to `until`, of which those sent within `answered` were answered after 0.1 ms."""
    sent = {number: number * every for number in range(1, int(until / every) + 1)}
    good = {n: at + 0.0001 for n, at in sent.items() if any(since <= at < end for since, end in answered)}
    return Sightings(sent, {"udp": good, "icmp": good, "tcp": good}, {})


def frames(since: float, until: float, every: float = 0.002) -> list[float]:
    return [since + step * every for step in range(int((until - since) / every) + 1)]


def test_gap_runs_from_the_last_answered_probe_to_the_next_answer():
    seen = probes((0, 1.0), (1.1, 10))
    assert sightings.blackout_ms(seen, "udp", 0, 10) == pytest.approx(102, abs=0.5)
    assert sightings.blackout_ms(seen, "udp", 2, 10) == 0.0


def test_gap_without_an_end_lasts_to_the_last_probe():
    assert sightings.blackout_ms(probes((0, 1.0)), "icmp", 0, 10) == pytest.approx(9_000, abs=5)


def test_probe_that_was_itself_late_makes_no_gap():
    seen = Sightings({1: 0.0, 2: 0.002, 3: 0.302}, {"udp": {1: 0.0001, 2: 0.0021, 3: 0.3021}}, {})
    assert sightings.blackout_ms(seen, "udp", 0, 1) == 0.0
    assert sightings.late_ms(seen, 0, 1) == pytest.approx(300)


def test_answer_that_was_queued_for_long_does_not_hide_the_gap_but_ends_it():
    sent = {number: number * 0.002 for number in range(1, 101)}
    answered = {n: max(at + 0.0001, 0.150) if at > 0.05 else at + 0.0001 for n, at in sent.items()}
    seen = Sightings(sent, {"udp": answered}, {})
    assert sightings.blackout_ms(seen, "udp", 0, 1) == pytest.approx(100, abs=1)


def test_no_probes_are_no_figure():
    assert sightings.blackout_ms(probes((0, 10)), "udp", 20, 30) is None


def test_two_owners_are_counted_for_the_time_in_which_both_answer():
    seen = Sightings({}, {}, {"gw1": frames(0, 2), "gw2": frames(1.5, 4)})
    assert sightings.two_owner_ms(seen, 0, 10) == pytest.approx(500, abs=3)
    assert sightings.two_owner_ms(seen, 0, 1.6) == pytest.approx(100, abs=3)


def test_one_owner_after_the_other_is_never_two():
    seen = Sightings({}, {}, {"gw1": frames(0, 1) + frames(2, 3), "gw2": frames(1.001, 1.999)})
    assert sightings.two_owner_ms(seen, 0, 10) == 0.0


def test_first_frame_of_another_owner_and_frames_after_a_lease():
    seen = Sightings({}, {}, {"gw1": [0.5, 1.0, 1.5], "gw2": [0.2, 1.2]})
    assert sightings.first_of_another(seen, "gw1", 1.0) == (1.2, "gw2")
    assert sightings.first_of_another(seen, "gw1", 1.3) is None
    assert sightings.frames_after(seen, "gw1", 1.0) == 2
    assert sightings.owners(seen, 0.0, 0.3) == {"gw2"}


@pytest.mark.parametrize(
    ("seen", "healed", "lost"),
    [
        (probes((0, 10)), 5.0, False),
        (probes((0, 3.0), (5.9, 10)), 5.0, False),  # back within a second
        (probes((0, 3.0), (6.5, 10)), 5.0, True),
        (probes((0, 7.0), (7.4, 10)), 5.0, True),  # back, and lost again
        (probes((0, 9.5)), None, True),
        (probes((0, 3.0), (3.5, 10)), None, False),
    ],
)
def test_address_is_lost_when_it_is_silent_a_second_after_the_heal(seen, healed, lost):
    assert sightings.black_holed(seen, healed, 10.0) is lost


def test_files_of_the_watchers_are_read_and_a_torn_line_is_passed_over():
    seen = sightings.read("t 1 5.000000\nu 1 5.000100\nc 1 5.000200\nu 1 6.0\nt 2", "gw1 ip 5.1\ngw1 arp 5.0\ngw2 i")
    assert seen.sent == {1: 5.0}
    assert seen.answered == {"udp": {1: 5.0001}, "icmp": {}, "tcp": {1: 5.0002}}
    assert seen.frames == {"gw1": [5.0, 5.1]}


def judged(seen: Sightings) -> Result:
    case = cases_of("daemon-freeze", "all")[0]
    fault = Fault(case=case, holder="gw1", at=5.0, struck=5.001, healed=8.0)
    return AddressRun(CONTENDER, lambda text: None).judge(fault, seen, 4, 10.0)


def with_frames(seen: Sightings, **ports: list[float]) -> Sightings:
    return Sightings(seen.sent, seen.answered, ports)


def test_repeat_gives_every_figure_of_the_scenario():
    found = judged(with_frames(probes((0, 5.3), (5.35, 10)), gw1=[*frames(0, 5.29), 8.1], gw2=frames(5.34, 10)))
    assert (found.healthy_before, found.victim, found.successor) == (True, "gw1", "gw2")
    assert found.blackout_ms == found.blackout_tcp_ms == pytest.approx(52, abs=3)
    assert found.successor_ms == pytest.approx(340, abs=1)
    assert (found.two_owner_ms, found.packets_after_lease, found.black_holed) == (0.0, 1, False)
    line = json.loads(json_line(found))
    assert (line["heartbeat_ms"], line["lease_ms"], line["variant"], line["system"]) == (100, 300, "all", "ours")


def test_address_that_was_silent_just_before_the_fault_is_not_measured():
    found = judged(with_frames(probes((0, 4.8), (4.9, 10)), gw1=frames(0, 5.3)))
    assert (found.healthy_before, found.blackout_ms) == (False, None)
    assert "with a gap of 102 ms just before the fault" in found.refused[0]


def test_address_that_had_two_owners_before_the_fault_is_not_measured():
    found = judged(with_frames(probes((0, 10)), gw1=frames(0, 5.3), gw2=frames(4.9, 5.3)))
    assert found.refused == ("owners just before the fault: gw1, gw2",)


def test_p95_of_twenty_is_the_nineteenth():
    assert percentile([float(value) for value in range(20, 0, -1)], 95) == 19.0
    assert percentile([7.0], 95) == 7.0
    assert percentile([None], 95) is None


def result(system: str, repeat: int, **change) -> Result:
    given = {"scenario": "daemon-kill", "variant": "control", "system": system, "repeat": repeat,
             "healthy_before": True, "heartbeat_ms": 100, "lease_ms": 300}  # fmt: skip
    return Result(**given | change)


def test_table_has_both_systems_in_one_line_and_no_figure_of_a_refused_repeat():
    lines = table(
        [
            result("ours", 1, blackout_ms=6.0, two_owner_ms=0.0, black_holed=False),
            result("ours", 2, blackout_ms=8.0, two_owner_ms=0.0, black_holed=False),
            result("keepalived", 1, blackout_ms=346.0, two_owner_ms=1500.0, black_holed=True),
            result("keepalived", 2, healthy_before=False, refused=("the address is on no gateway",)),
        ]
    ).splitlines()
    (line,) = [line for line in lines if line.startswith("daemon-kill/control")]
    assert line.split() == [
        *("daemon-kill/control", "100", "ms"),
        *("2", "7", "8", "8", "-", "0", "-", "0"),
        *("1", "346", "346", "346", "-", "1500", "-", "1"),
    ]
    assert lines[-1] == (
        "not measured: daemon-kill/control at 100 ms, keepalived, repeat 2: the address is on no gateway"
    )


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers())
    return parser.parse_args(["measure", *argv])


def test_plan_of_the_whole_table_has_both_systems_and_the_heartbeats_of_each_scenario():
    plan = address_command.plan_of(parsed("address-table"))
    assert (plan.systems, plan.repeats, plan.heartbeats_ms) == (("ours", "keepalived"), 20, [1000, 100, 10])
    assert {case.scenario for case, _ in plan.cases} == set(address_scenarios.SCENARIO_NAMES)
    by_name = {case.name: heartbeats for case, heartbeats in plan.cases}
    assert by_name["gateway-link-down"] == (100, 10)
    assert by_name["gateway-partition/isolated"] == (100,)
    assert plan.lease_of(10) == 30


def test_plan_takes_what_was_asked_for():
    plan = address_command.plan_of(
        parsed("daemon-kill", "--victim", "guard", "--heartbeat", "1s,20ms", "--lease", "90ms", "--repeat", "3")
    )
    assert (plan.systems, plan.repeats, plan.lease_of(20)) == (("ours",), 3, 90)
    assert [(case.name, heartbeats) for case, heartbeats in plan.cases] == [("daemon-kill/guard", (1000, 20))]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("address-table", "--only", "daemon-kil"), "no address scenario 'daemon-kil'; did you mean 'daemon-kill'?"),
        (("daemon-kill", "--heartbeat", "100"), "'100' is no time: write it as 100ms or 1s"),
        (("daemon-term", "--victim", "all"), "'daemon-term' has no variant 'all': it has no variants"),
        (("daemon-kill", "--repeat", "0"), "a measurement is repeated at least once: --repeat 1"),
    ],
)
def test_plan_that_makes_no_sense_is_refused_with_the_fix(argv, told):
    with pytest.raises(LabError) as refusal:
        address_command.plan_of(parsed(*argv))
    assert str(refusal.value) == told


async def test_had_and_keepalived_are_refused_where_they_have_nothing_to_do():
    with pytest.raises(LabError, match="keepalived moves an address and knows nothing of a pool"):
        await command.measure(parsed("manager-kill", "--with", "keepalived"))
    with pytest.raises(LabError, match="HAD has no address to move"):
        await command.measure(parsed("daemon-kill", "--with", "had"))


def test_names_of_the_command_are_those_of_the_scenarios():
    assert command.ADDRESS_NAMES == address_scenarios.SCENARIO_NAMES
    assert (command.ADDRESS_TABLE, command.FALSE_TAKEOVERS) == (address_command.TABLE, takeovers.NAME)


def test_losses_are_read_and_nonsense_is_refused():
    assert takeovers.losses(None, ladder=False) == (5,)
    assert takeovers.losses("5,10%", ladder=False) == (5, 10)
    for text in ("many", "101"):
        with pytest.raises(LabError, match="is no loss"):
            takeovers.losses(text, ladder=False)


def test_keepalived_is_refused_a_heartbeat_that_it_cannot_count():
    assert "advert_int 0.01\n" in keepalived.config("gw1", 10)
    with pytest.raises(LabError, match="hundredths of a second, not 25 ms"):
        keepalived.config("gw1", 25)


def test_echo_is_known_by_its_identifier_and_carries_its_number():
    request = pulse.echo_request(70_000, 4)
    answer = bytes([0x45]) + bytes(19) + b"\x00" + request[1:]
    assert pulse.checksum(request) == 0
    assert pulse.echo_answer(answer, 4) == 70_000
    assert pulse.echo_answer(answer, 5) is None
    assert pulse.echo_answer(answer[:30], 4) is None
    assert pulse.echo_answer(bytes([0x45]) + bytes(19) + request, 4) is None


class Run:
    """Repeats that turn out as they are told to."""

    def __init__(self, *healthy: bool) -> None:
        self.healthy = list(healthy)
        self.asked: list[int] = []

    async def measure(self, case, repeat: int) -> Result:
        self.asked.append(repeat)
        return result("ours", repeat, healthy_before=self.healthy.pop(0), blackout_ms=1.0)


@pytest.mark.parametrize(
    ("turns", "asked"),
    [((True, False, True), [1, 2, 2]), ((True, False, False, False, True), [1, 2, 2, 2])],
)
async def test_refused_repeat_is_tried_again_until_three_in_a_row_are_refused(turns, asked):
    plan = address_command.plan_of(parsed("daemon-term", "--repeat", "2", "--heartbeat", "100ms"))
    run, kept = Run(*turns), []
    await address_command.series(run, CONTENDER, plan, lambda text: None, kept.append)
    assert run.asked == asked
    assert [one.healthy_before for one in kept] == list(turns[: len(asked)])
