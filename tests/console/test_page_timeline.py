"""The timeline: changes of leaders as positions on one scale."""

from itertools import pairwise

from page_documents import NOW_S, change, matchmaker_change

from gateway.console.page.timeline import LEFT, RIGHT, ROOM, ROWS_MAX, timeline


def only_row(**facts):
    return timeline([change(**facts)], NOW_S).rows[0]


def test_newest_change_stands_first_whatever_the_order_of_the_history():
    changes = [change(seq=seq, at=NOW_S - 100 + seq) for seq in (3, 1, 2)]
    assert [row.key for row in timeline(changes, NOW_S).rows] == [f"pool-vip-8-{seq}" for seq in (3, 2, 1)]


def test_every_known_phase_is_a_marker_at_its_time():
    found = timeline([change()], NOW_S)
    row = found.rows[0]
    assert [marker.word for marker in row.markers] == ["lost", "noticed", "elected", "serving", "announced"]
    scale = RIGHT - LEFT  # of 400 ms, the round number above 293
    assert found.ticks[-1].label.replace("\N{NO-BREAK SPACE}", " ") == "400 ms"
    for marker, ms in zip(row.markers, (0, 210, 290, 292, 293), strict=True):
        assert abs(marker.at - (LEFT + scale * ms / 400)) < 0.01
        assert marker.time == f"{ms}\N{NO-BREAK SPACE}ms"


def test_shapes_of_phases_that_fall_together_stand_side_by_side():
    markers = timeline([matchmaker_change()], NOW_S).rows[0].markers
    for one, other in pairwise(markers):
        assert other.seat - one.seat >= ROOM - 0.01
    assert all(0 <= marker.seat <= 100 for marker in markers)


def test_time_without_service_ends_when_the_address_is_announced():
    left, width = only_row(gap_ms=93).gap
    scale = (RIGHT - LEFT) / 400
    assert abs(left - (LEFT + 200 * scale)) < 0.01
    assert abs(width - 93 * scale) < 0.01


def test_phase_that_this_node_cannot_know_is_not_drawn():
    row = only_row(phases={"lost_ms": 0, "elected_ms": 290}, gap_ms=None)
    assert [marker.word for marker in row.markers] == ["lost", "elected"]
    assert row.gap is None
    assert row.gap_time == "\N{EN DASH}"


def test_one_very_long_failover_does_not_make_dots_of_the_others():
    short = [change(seq=seq, at=NOW_S - seq) for seq in range(2, 8)]
    long = change(seq=1, at=NOW_S, gap_ms=97_000, phases={"lost_ms": 0, "announced_ms": 97_000})
    found = timeline([*short, long], NOW_S)
    assert found.rows[0].torn
    assert not found.rows[1].torn
    assert found.rows[1].gap[1] > 50
    assert all(row.gap[0] >= 0 and sum(row.gap) <= 100 for row in found.rows)


def test_a_screen_of_changes_is_shown_and_the_rest_counted():
    found = timeline([change(seq=seq) for seq in range(ROWS_MAX + 5)], NOW_S)
    assert len(found.rows) == ROWS_MAX
    assert found.more == 5


def test_who_cannot_see_the_picture_is_told_all_of_it():
    said = only_row().sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "gw2 took pool-vip from gw1; not served for 291 ms: "
        "noticed after 210 ms, elected after 290 ms, serving after 292 ms, announced after 293 ms"
    )


def test_failover_whose_end_is_not_known_yet_is_called_under_way():
    assert only_row(gap_ms=None, at=NOW_S - 1).under_way
    assert not only_row(gap_ms=None, at=NOW_S - 60).under_way
    assert not only_row(gap_ms=None, at=NOW_S - 1, cause="first").under_way


def test_first_leader_of_all_came_from_nobody():
    row = timeline([change(**{"from": None, "cause": "first", "gap_ms": None, "phases": {}})], NOW_S).rows[0]
    assert row.old is None
    assert row.cause == "first leader"
    assert row.sentence == "gw2 took pool-vip"
