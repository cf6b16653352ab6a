"""Rotating keys: three steps, and between two neighbouring ones every node is heard by every other."""

import fcntl
import hashlib
import itertools
import os
import stat

import pytest

from gateway.cli import run_command_line
from gateway.config.keyfile import (
    KEYS_MAX,
    KeyFileError,
    Keys,
    activate_newest,
    add_key,
    parse_key_file,
    render_key_file,
    retire_old,
)
from gateway.keyfiles import create_key_file, new_key, read_key_file, rewrite_key_file
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring, Seal

NODES = ("gw1", "gw2", "cm1")
ROTATE, ACTIVATE, RETIRE = ["--rotate"], ["--rotate", "--activate"], ["--rotate", "--retire"]
_boots = itertools.count(1)


def key(number):
    return hashlib.sha256(b"%d" % number).digest()


def start(me, keys):
    """Start a node: a boot id of its own, and the keys that its file has now."""
    boot_id = hashlib.sha256(b"boot %d" % next(_boots)).digest()[:16]
    return Seal("physics", Keyring(keys.keys, keys.active), me, boot_id, NODES)


def meet(nodes):
    """Let each node send to each other until all have been heard; return every refusal."""
    heard = set()
    for _ in range(3):
        for sender, receiver in itertools.permutations(nodes, 2):
            queue = [(sender, receiver, nodes[sender].seal(receiver, b"heartbeat"))]
            while queue:
                sent_by, to, datagram = queue.pop()
                try:
                    opened = nodes[to].open_untrusted(datagram)
                except Malformed as refusal:
                    if refusal.reason is not Reason.STALE_BOOT:  # a second greeting before the first was answered
                        return {refusal.reason}
                    continue
                if opened.payload is not None:
                    heard.add((sent_by, to))
                if opened.reply_to is not None:
                    queue.append((to, opened.reply_to, nodes[to].hello(opened.reply_to)))
    assert heard == set(itertools.permutations(nodes, 2))
    return set()


def keygen(path, *words):
    return run_command_line(["keygen", *words, str(path)])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cluster.key"
    create_key_file(path)
    return path


def test_every_node_hears_every_other_while_the_file_goes_round_after_each_step(path):
    keys = {name: read_key_file(path) for name in NODES}
    first = keys["gw1"].keys[1]
    for step in (ROTATE, ACTIVATE, RETIRE):
        assert keygen(path, *step) == 0
        for name in NODES:
            keys[name] = read_key_file(path)
            assert meet({node: start(node, keys[node]) for node in NODES}) == set(), (step, name)
    assert keys["cm1"].active == 2
    assert list(keys["cm1"].keys) == [2]
    assert first not in keys["cm1"].keys.values()


def test_a_heartbeat_sealed_before_a_step_is_opened_by_a_node_that_has_taken_it(path):
    before = read_key_file(path)
    for step in (ROTATE, ACTIVATE, RETIRE):
        keygen(path, *step)
        after = read_key_file(path)
        for mine, yours in ((before, after), (after, before)):
            sender, receiver = start("gw1", mine), start("gw2", yours)
            assert receiver.open_untrusted(sender.seal("gw2", b"on its way")).sender == "gw1"
        before = after


def test_a_retired_key_is_refused_by_its_name(path):
    old = start("gw1", read_key_file(path))
    for step in (ROTATE, ACTIVATE, RETIRE):
        keygen(path, *step)
    receiver = start("gw2", read_key_file(path))
    with pytest.raises(Malformed) as refusal:
        receiver.open_untrusted(old.seal("gw2", b"heartbeat"))
    assert refusal.value.reason is Reason.UNKNOWN_KEY
    assert receiver.refused == {Reason.UNKNOWN_KEY: 1}


def test_a_step_that_is_left_out_shuts_a_node_out(path):
    """Why there are three of them: a node without the new key does not hear one that seals with it."""
    laggard = start("gw1", read_key_file(path))
    keygen(path, *ROTATE)
    keygen(path, *ACTIVATE)
    assert meet({"gw1": laggard, "gw2": start("gw2", read_key_file(path))}) == {Reason.UNKNOWN_KEY}


def test_each_step_says_the_next_one(path, capsys):
    keygen(path, *ROTATE)
    assert f"condor-gateway keygen --rotate --activate {path}" in capsys.readouterr().out
    keygen(path, *ACTIVATE)
    assert f"condor-gateway keygen --rotate --retire {path}" in capsys.readouterr().out
    keygen(path, *RETIRE)
    said = capsys.readouterr().out
    assert "the rotation is done" in said
    assert all(digits.hex() not in said for digits in read_key_file(path).keys.values())


@pytest.mark.parametrize(
    ("done", "step", "said"),
    [
        ([], ACTIVATE, "key 1 is the newest and active already: add another with --rotate alone"),
        ([], RETIRE, "no key is older than the active key 1"),
        ([ROTATE], ROTATE, "key 2 is newer than the active key 1 already"),
        ([ROTATE], RETIRE, "no key is older than the active key 1: make key 2 active first, with --activate"),
        ([ROTATE, ACTIVATE], ACTIVATE, "key 2 is the newest and active already"),
    ],
)
def test_a_step_out_of_turn_is_refused_and_changes_nothing(path, capsys, done, step, said):
    for earlier in done:
        keygen(path, *earlier)
    before = path.read_bytes()
    assert keygen(path, *step) == 1
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


def test_steps_without_rotate_are_no_command(path, capsys):
    for word in ("--activate", "--retire"):
        with pytest.raises(SystemExit) as ended:
            keygen(path, word)
        assert ended.value.code == 2
        assert "steps of --rotate" in capsys.readouterr().err


def test_a_rotated_file_keeps_its_owner_and_mode_and_leaves_nothing_beside_it(path):
    if os.geteuid() == 0:
        os.chown(path, 0, 54_321)
    group = path.stat().st_gid
    (path.parent / f".{path.name}.new").write_text("left by a run that was killed")
    keygen(path, *ROTATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_gid == group
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_link_to_the_key_file_stays_a_link(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    keygen(link, *ROTATE)
    assert link.is_symlink()
    assert read_key_file(path).newest == 2


def test_a_file_that_is_open_to_others_or_missing_is_not_rotated(path, capsys):
    path.chmod(0o644)
    assert keygen(path, *ROTATE) == 1
    assert "run 'chmod 600" in capsys.readouterr().err
    for missing in (path.parent / "none", path.parent / "no" / "none"):
        assert keygen(missing, *ROTATE) == 1
        assert "does not exist: make one with" in capsys.readouterr().err


def test_two_rotations_at_a_time_do_not_lose_a_key(path):
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(KeyFileError, match="being rewritten by another process"):
        rewrite_key_file(path, activate_newest)
    os.close(folder)
    rewrite_key_file(path, lambda keys: add_key(keys, new_key()))


def test_a_failed_write_leaves_the_file_as_it_was(path, monkeypatch):
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="cannot be written: No space left"):
        rewrite_key_file(path, lambda keys: add_key(keys, new_key()))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_ids_begin_again_at_one_and_pass_over_those_in_use():
    assert add_key(Keys(active=255, keys={255: key(1)}), key(2)).newest == 1
    keys = Keys(active=255, keys={1: key(1), 2: key(2), 255: key(3)})
    assert add_key(keys, key(4)).newest == 3


def test_the_newest_key_is_the_last_of_the_file_also_after_the_ids_began_again():
    keys = add_key(Keys(active=255, keys={254: key(1), 255: key(2)}), key(3))
    again = parse_key_file(render_key_file(keys))
    assert (again.newest, again.active) == (1, 255)
    again = activate_newest(again)
    assert list(retire_old(again).keys) == [1]


def test_a_key_that_waits_to_be_active_is_not_retired():
    keys = Keys(active=2, keys={1: key(1), 2: key(2), 3: key(3)})
    assert list(retire_old(keys).keys) == [2, 3]


def test_a_file_full_of_keys_is_told_to_retire_some():
    keys = Keys(active=KEYS_MAX, keys={number: key(number) for number in range(1, KEYS_MAX + 1)})
    with pytest.raises(KeyFileError, match="with --retire"):
        add_key(keys, key(99))


def test_any_number_of_rotations_goes_round():
    keys = Keys(active=1, keys={1: key(0)})
    for number in range(1, 600):
        keys = retire_old(activate_newest(add_key(keys, key(number))))
        assert keys == parse_key_file(render_key_file(keys))
        assert list(keys.keys) == [keys.active]
        assert 1 <= keys.active <= 255
