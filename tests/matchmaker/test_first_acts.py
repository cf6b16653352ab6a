"""When a negotiator began to work, read from its log. A real file; what it says is HTCondor's own."""

import trio

from gateway.kernel.inotify import FileWatch
from gateway.matchmaker.first_acts import FirstActs

CYCLE = b"11/23/26 12:14:26.087 ---------- Started Negotiation Cycle ----------\n"
MATCH = b"11/23/26 12:14:26.116       Matched 14.8 physicist@lab.internal <10.77.0.21:9618> preempting none\n"


async def run(acts, write):
    """Return what was seen, in order, and let `write` write meanwhile."""
    seen = []
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch():
                await acts.run(lambda: seen.append("cycle"), lambda: seen.append("match"))
                nursery.cancel_scope.cancel()

            await write(seen)
    return seen


async def test_acts_before_the_mark_are_another_negotiators(tmp_path):
    log = trio.Path(tmp_path / "NegotiatorLog")
    await log.write_bytes(CYCLE + MATCH)
    acts = FirstActs(str(log), FileWatch)
    await acts.mark()

    async def write(seen):
        await trio.sleep(0.2)
        assert seen == []
        seen.append("begun")
        async with await log.open("ab") as file:
            await file.write(MATCH)  # before any cycle: of the one that is being stopped
            await file.flush()
            await trio.sleep(0.05)
            assert seen == ["begun"]
            await file.write(CYCLE[:40])
            await file.flush()
            await trio.sleep(0.05)
            await file.write(CYCLE[40:] + b"nothing of interest\n" * 20)
            await file.flush()
            await trio.sleep(0.05)
            await file.write(MATCH)

    assert await run(acts, write) == ["begun", "cycle", "match"]


async def test_a_log_that_is_put_aside_is_followed(tmp_path):
    log = trio.Path(tmp_path / "NegotiatorLog")
    await log.write_bytes(b"old\n")
    acts = FirstActs(str(log), FileWatch)
    await acts.mark()

    async def write(seen):
        async with await log.open("ab") as file:
            await file.write(CYCLE)
        await log.rename(tmp_path / "NegotiatorLog.old")
        await log.write_bytes(MATCH)

    assert await run(acts, write) == ["cycle", "match"]


async def test_a_log_that_is_made_only_now_is_read_from_its_start(tmp_path):
    acts = FirstActs(str(tmp_path / "NegotiatorLog"))
    await acts.mark()

    async def write(seen):
        await trio.Path(tmp_path / "NegotiatorLog").write_bytes(CYCLE + MATCH)

    assert await run(acts, write) == ["cycle", "match"]


async def test_a_folder_in_the_log_s_place_says_nothing_and_ends_nobody(tmp_path):
    acts = FirstActs(str(tmp_path), FileWatch)
    await acts.mark()
    seen = []
    with trio.fail_after(5):
        await acts.run(lambda: seen.append("cycle"), lambda: seen.append("match"))
    assert seen == []


async def test_without_a_log_nothing_is_awaited():
    acts = FirstActs("")
    await acts.mark()
    with trio.fail_after(5):
        await acts.run(lambda: None, lambda: None)
