"""Examining: this host looked over by a process of its own, for whoever asks this node, or another one, for it.

Rule: the look costs this process nothing but waiting; one at a time, and what was found a moment ago is told again.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import trio

from gateway.control.commands import CommandRefused, Request
from gateway.matchmaker.tool import run_printing

LOOK_S_MAX: Final = 25.0  # a busy host's HTCondor takes ten seconds, and probes some more
FRESH_S: Final = 3.0
OUTPUT_BYTES_MAX: Final = 512 * 1024  # a finding is a line or two, and there are some fifty


class Examining:
    """Answers `doctor`: what `condor-gateway doctor --json` finds on this host.

    Args:
        file: the configuration file that this node was started with.
        node: its name.
        program: how this program is started; for tests.
    """

    def __init__(self, file: str, node: str, program: tuple[str, ...] = ()) -> None:
        # -P: never import from the directory in which root happened to start us. Behind everything else: it is a look.
        started = program or ("nice", "-n", "10", sys.executable, "-P", "-m", "gateway")
        self._argv = (*started, "doctor", "--json", "-f", str(Path(file).absolute()), "--node", node)
        self._one = trio.Lock()
        self._found: dict[str, Any] | None = None
        self._found_at = 0.0

    async def answer(self, request: Request) -> dict[str, Any]:
        """Return the report.

        Raises:
            CommandRefused: there is none: the look failed, or took longer than `LOOK_S_MAX`.
        """
        async with self._one:
            if self._found is None or trio.current_time() - self._found_at > FRESH_S:
                self._found = await self._look()
                self._found_at = trio.current_time()
            return self._found

    async def _look(self) -> dict[str, Any]:
        try:
            with trio.fail_after(LOOK_S_MAX):
                done = await run_printing(self._argv)
        except trio.TooSlowError:
            raise CommandRefused(f"looking this host over took longer than {LOOK_S_MAX:g} s", "too-slow") from None
        except OSError as error:
            raise CommandRefused(f"this host can't be looked over: {error.strerror or error}", "failed") from None
        try:
            report = json.loads(done.stdout[:OUTPUT_BYTES_MAX])
        except ValueError:
            report = None
        if not isinstance(report, dict):
            said = " ".join(done.stderr.decode(errors="replace").split())[-200:] or f"exit status {done.returncode}"
            raise CommandRefused(f"this host can't be looked over: {said}", "failed")
        return report
