"""The kernel's counters of one backend as totals, rates, and by server."""

from gateway.control.tally import Tally


def test_each_server_has_what_was_counted_until_the_next_was_elected() -> None:
    tally = Tally()
    tally.take({"connections": 0}, 0.0)
    tally.follow("cm1")
    tally.take({"connections": 4}, 1.0)
    tally.take({"connections": 5}, 1.2)
    tally.follow("cm2")
    tally.take({"connections": 7}, 2.0)
    assert tally.totals["connections"] == 7
    assert {name: counted["connections"] for name, counted in tally.servers.items()} == {"cm1": 5, "cm2": 2}


def test_what_goes_on_while_nobody_is_elected_is_the_last_servers() -> None:
    tally = Tally()
    tally.take({"bytes_to_server": 0}, 0.0)
    tally.follow("cm1")
    tally.follow(None)
    tally.take({"bytes_to_server": 10}, 1.0)
    assert tally.servers["cm1"]["bytes_to_server"] == 10


def test_what_a_former_process_has_counted_is_in_the_totals_and_no_servers() -> None:
    tally = Tally()
    tally.follow("cm1")
    tally.take({"connections": 1_000}, 0.0)
    tally.take({"connections": 1_001}, 1.0)
    assert tally.totals["connections"] == 1_001
    assert tally.servers["cm1"]["connections"] == 1
    assert tally.rates["connections"] == 1.0


def test_totals_go_on_where_the_rules_were_made_anew() -> None:
    tally = Tally()
    tally.follow("cm1")
    for at, counted in enumerate((0, 100, 3, 5)):
        tally.take({"connections": counted}, at)
    assert tally.totals["connections"] == 105
    assert tally.servers["cm1"]["connections"] == 105


def test_rates_are_of_a_second_however_often_somebody_looks() -> None:
    tally = Tally()
    for now_s, counted in ((0.0, 0), (1.0, 10), (1.001, 11), (1.5, 20), (2.0, 30)):
        tally.take({"connections": counted}, now_s)
        if now_s in (1.001, 1.5):
            assert tally.rates["connections"] == 10
    assert tally.rates["connections"] == 20


def test_connections_reset_at_a_switch_were_the_former_servers() -> None:
    tally = Tally()
    tally.take({"reset": 0}, 0.0)
    tally.follow("cm1")
    tally.follow("cm2")
    tally.take({"reset": 3}, 1.0)
    assert tally.servers["cm1"]["reset"] == 3
    assert "cm2" not in tally.servers or tally.servers["cm2"]["reset"] == 0
