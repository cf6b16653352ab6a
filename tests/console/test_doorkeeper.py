"""The doorkeeper: who is let in, and who has to wait."""

import pytest

from gateway.console.doorkeeper import (
    DELAY_S_MAX,
    GUESSES_MAX,
    IDLE_S,
    MINUTE_S,
    SESSION_S,
    SESSIONS_MAX,
    Doorkeeper,
    TokenUnusable,
    TooSoon,
    read_token,
)

TOKEN = "correct horse battery"


@pytest.fixture
def door():
    return Doorkeeper(TOKEN)


def test_token_is_known(door):
    assert door.admits("10.0.0.1", TOKEN, 0)
    assert not door.admits("10.0.0.1", TOKEN + "x", 0)


def test_without_a_token_nobody_is_let_in():
    assert not Doorkeeper("").admits("10.0.0.1", "", 0)


def test_each_wrong_guess_doubles_the_time_in_which_a_source_is_not_heard(door):
    now, waits = 0.0, []
    for _ in range(9):
        assert not door.admits("10.0.0.1", "a guess", now)
        with pytest.raises(TooSoon) as refused:
            door.admits("10.0.0.1", TOKEN, now)  # even the right one
        waits.append(refused.value.wait_s)
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, DELAY_S_MAX, DELAY_S_MAX, DELAY_S_MAX]
    assert door.admits("10.0.0.1", TOKEN, now)


def test_guesses_from_many_addresses_are_bounded_together(door):
    for number in range(GUESSES_MAX):
        assert not door.admits(f"10.0.0.{number}", "a guess", 0)
    with pytest.raises(TooSoon):
        door.admits("10.9.9.9", "a guess", 1)
    assert door.admits("10.9.9.9", TOKEN, MINUTE_S + 1)


def test_what_strangers_guess_keeps_nobody_out_who_has_known_the_token(door):
    assert door.admits("10.0.0.200", TOKEN, 0)
    for number in range(GUESSES_MAX):
        assert not door.admits(f"10.0.0.{number}", "a guess", 1)
    assert door.admits("10.0.0.200", TOKEN, 2)


def test_who_shares_the_address_of_one_that_knows_the_token_keeps_it_out_for_seconds(door):
    now, waits = 0.0, []
    assert door.admits("10.0.0.1", TOKEN, now)
    for _ in range(4 * GUESSES_MAX):
        assert not door.admits("10.0.0.1", "a guess", now)
        with pytest.raises(TooSoon) as refused:
            door.admits("10.0.0.1", TOKEN, now)
        waits.append(refused.value.wait_s)
        now += waits[-1] + 0.001
    assert max(waits) == pytest.approx(MINUTE_S / GUESSES_MAX)
    assert door.admits("10.9.9.9", TOKEN, now), "and it uses up nobody else's guesses"


def test_session_ends_by_itself(door):
    key = door.begin(0)
    assert door.session(key, IDLE_S - 1) is not None
    assert door.session(key, 2 * IDLE_S - 2) is not None  # it was used meanwhile
    assert door.session(key, 4 * IDLE_S) is None
    assert door.session(key, 4 * IDLE_S) is None
    worked = door.begin(0)
    for now in range(0, int(SESSION_S), int(IDLE_S / 2)):
        assert door.session(worked, now) is not None
    assert door.session(worked, SESSION_S) is None


def test_sessions_are_bounded_and_each_has_a_csrf_token_of_its_own(door):
    keys = [door.begin(0) for _ in range(SESSIONS_MAX + 1)]
    assert door.session(keys[0], 0) is None
    assert len({door.session(key, 0).csrf for key in keys[1:]}) == SESSIONS_MAX


def test_key_that_was_never_given_opens_nothing(door):
    door.begin(0)
    assert door.session("guessed", 0) is None
    assert door.session("", 0) is None


def test_token_file_is_its_first_line(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\nan old one\n")
    path.chmod(0o600)
    assert read_token(str(path)) == TOKEN


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (TOKEN, 0o644, "is open to others (mode 644): chmod 600 it"),
        ("short", 0o600, "has a token of 5 characters: at least 16, as 'openssl rand -hex 32' makes them"),
        ("", 0o600, "has a token of 0 characters: at least 16, as 'openssl rand -hex 32' makes them"),
    ],
)
def test_token_file_that_is_not_safe_is_refused(tmp_path, text, mode, said):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(TokenUnusable) as refused:
        read_token(str(path))
    assert str(refused.value) == f"admin token-file '{path}' {said}"


def test_missing_token_file_is_named(tmp_path):
    with pytest.raises(TokenUnusable, match="cannot be read: No such file or directory"):
        read_token(str(tmp_path / "none"))
