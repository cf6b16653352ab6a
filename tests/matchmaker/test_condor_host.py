"""How HTCondor's tools are run, and what is said where there is no HTCondor. With a real one: test_on_a_pool.py."""

import os
import pwd
import signal

import pytest
import trio

from gateway.matchmaker.condor import CondorMissing, ToolFailed, condor_ids, discover, run_tool


async def test_no_htcondor_is_one_clear_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CondorMissing, match=r"^HTCondor is not installed here \(condor_config_val is not in PATH\)"):
        await discover()


async def test_tool_that_does_not_end_is_killed_at_its_deadline(tmp_path):
    # It ignores SIGTERM, as a tool in the middle of a connect may.
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do read line < /dev/zero; done"
    with trio.fail_after(3), pytest.raises(ToolFailed, match="no answer within 300 ms"):
        await run_tool("sh", "-c", script, timeout_ms=300)
    pid = int((tmp_path / "pid").read_text())
    with trio.fail_after(20):
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240 (of the kernel, which sets no event)
            await trio.sleep(0.01)


async def test_tool_that_can_t_be_killed_is_left_behind(monkeypatch, tmp_path):
    """As one that waits for a disk or for NFS: neither its deadline nor the end of the node waits for it."""
    monkeypatch.setattr(trio.Process, "kill", lambda self: None)
    began = trio.current_time()
    with pytest.raises(ToolFailed, match="no answer within 100 ms"):
        await run_tool("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 10", timeout_ms=100)
    assert trio.current_time() - began < 8
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_tool_whose_output_somebody_else_keeps_open_is_bounded_by_its_deadline():
    with trio.fail_after(8), pytest.raises(ToolFailed, match="no answer within 300 ms"):
        await run_tool("sh", "-c", "sleep 9 & exit 0", timeout_ms=300)


async def test_tool_that_fails_is_quoted_on_one_line():
    with pytest.raises(ToolFailed, match=r"^sh: exit status 3: Error: communication error on port 9618$"):
        await run_tool(
            "sh", "-c", "printf 'Error: communication error\\n  on port 9618\\n' >&2; exit 3", timeout_ms=3000
        )


async def test_tool_reads_what_it_is_given():
    assert await run_tool("cat", stdin=b"MyType\n", timeout_ms=3000) == "MyType\n"


def test_ids_of_the_configuration_come_before_the_user():
    assert condor_ids("100.101") == (100, 101)


@pytest.mark.parametrize("text", ["100", "condor.condor", "100.", "-1.5"])
def test_ids_of_another_shape_are_quoted(text):
    with pytest.raises(CondorMissing, match="write it as user"):
        condor_ids(text)


def test_without_a_condor_user_the_fix_is_said(monkeypatch):
    def nobody(name):
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)
    with pytest.raises(CondorMissing, match="no user 'condor' and no CONDOR_IDS"):
        condor_ids("")
