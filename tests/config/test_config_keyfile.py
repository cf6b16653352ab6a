import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError
from gateway.config.keyfile import KeyFileError, Keys, parse_key_file, render_key_file
from gateway.keyfiles import create_key_file, read_key_file

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
ROOT = os.geteuid() == 0


def refused(text):
    with pytest.raises(KeyFileError) as caught:
        parse_key_file(text, "/k")
    assert ONE.hex() not in str(caught.value)
    return str(caught.value)


def test_a_key_file_holds_keys_and_the_active_one():
    text = f"# comment\n\nkey 1 {ONE.hex()}\n  key 200 {TWO.hex().upper()}\t\r\nactive 200\n"
    assert parse_key_file(text) == Keys(active=200, keys={1: ONE, 200: TWO})


@given(
    st.dictionaries(
        st.integers(1, 255),
        st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) > 1),
        min_size=1,
        max_size=8,
    ).filter(lambda keys: len(set(keys.values())) == len(keys)),
    st.data(),
)
def test_what_is_rendered_is_read_back(keys, data):
    value = Keys(active=data.draw(st.sampled_from(sorted(keys))), keys=keys)
    assert parse_key_file(render_key_file(value)) == value


@given(st.text())
def test_no_text_raises_anything_else(text):
    with pytest.raises(KeyFileError):
        parse_key_file(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "/k: no key"),
        (f"key 1 {ONE.hex()}", "/k: no line 'active ID': add 'active 1'"),
        (f"key 1 {ONE.hex()}\nactive 2", "/k: 'active 2' names no key: there is 1"),
        (f"key 1 {ONE.hex()}\nactive 1\nactive 1", "/k:3: second 'active'"),
        (f"key 1 {ONE.hex()}\nkey 1 {TWO.hex()}\nactive 1", "/k:2: second key 1"),
        (f"key 1 {ONE.hex()}\nkey 2 {ONE.hex()}\nactive 1", "/k:2: key 2 is the same as another"),
        (f"key 1 {ONE.hex()[:-2]}", "/k:1: key 1 has 62 hexadecimal digits: 64 are needed"),
        (f"key 1 {ONE.hex()[:-1]}g", "/k:1: key 1 has a character that is not a hexadecimal digit"),
        ("key 1 " + "00" * 32, "/k:1: key 1 is one byte repeated"),
        (f"key 0 {ONE.hex()}", "/k:1: the id of a key is a whole number from 1 to 255"),
        (f"key 256 {ONE.hex()}", "/k:1: the id of a key is a whole number from 1 to 255"),
        (f"key 1 {ONE.hex()} extra", "/k:1: a line is a '# comment', 'key ID HEX' or 'active ID'"),
        (ONE.hex(), "/k:1: a line is a '# comment'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_without_the_key(text, said):
    assert said in refused(text)


def test_all_mistakes_are_told_at_once():
    assert refused("key\nactive x\nkey 1 ab").count("\n") == 2


def test_the_number_of_keys_is_limited():
    lines = [f"key {n} {bytes([n, *range(1, 32)]).hex()}" for n in range(1, 10)]
    parse_key_file("\n".join([*lines[:8], "active 1"]))
    assert "/k:9: more than 8 keys" in refused("\n".join([*lines, "active 1"]))


def test_keys_do_not_show_themselves():
    keys = Keys(active=1, keys={1: ONE})
    assert repr(keys) == f"{keys}" == "Keys(active=1, ids=[1])"


# On the disk


def test_a_new_key_file_is_for_its_owner_alone_and_can_be_read(tmp_path):
    path = tmp_path / "cluster.key"
    before = os.umask(0)
    try:
        keys = create_key_file(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == keys
    assert read_key_file(str(path)) == keys


def test_two_new_keys_differ(tmp_path):
    assert create_key_file(tmp_path / "a").keys != create_key_file(tmp_path / "b").keys


def test_an_existing_key_file_is_not_overwritten(tmp_path):
    path = tmp_path / "cluster.key"
    keys = create_key_file(path)
    with pytest.raises(KeyFileError, match="exists already and is not overwritten"):
        create_key_file(path)
    assert read_key_file(path) == keys


def test_a_key_file_is_not_made_through_a_dangling_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists already"):
        create_key_file(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_file_in_no_folder_is_refused_with_the_fix(tmp_path):
    with pytest.raises(KeyFileError, match=r"folder '.*none' does not exist: make it with 'mkdir -p"):
        create_key_file(tmp_path / "none" / "cluster.key")


def test_a_missing_key_file_is_refused_with_the_command_that_makes_one(tmp_path):
    path = tmp_path / "cluster.key"
    with pytest.raises(ConfigError) as caught:
        read_key_file(path)
    assert str(caught.value) == f"key file '{path}' does not exist: make one with 'condor-gateway keygen {path}'"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o610, 0o644])
def test_a_key_file_open_to_others_is_refused_with_the_fix(tmp_path, mode):
    path = tmp_path / "cluster.key"
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"open to other users \\(mode {mode:04o}\\): run 'chmod 600 {path}'"):
        read_key_file(path)


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
def test_a_key_file_of_a_stranger_is_refused(tmp_path):
    path = tmp_path / "cluster.key"
    create_key_file(path)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match=f"belongs to user 12345: run 'chown root {path}'"):
        read_key_file(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(KeyFileError, match="is not a file"):
            read_key_file(path)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"key 1 abc\n", b"#" * 70_000])
def test_a_file_that_is_no_key_file_is_refused(tmp_path, data):
    path = tmp_path / "cluster.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        read_key_file(path)
