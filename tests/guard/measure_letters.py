"""How long after the death of control its letter arrives: `python -m tests.guard.measure_letters --kills 100`.

Control is a stand-in with the memory, the threads and the priority of the real one; guard, kernel and socket are real.
With `--freeze` control is stopped (SIGSTOP) instead of killed. CPUs are kept busy by `--busy` processes.
"""

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARD = ROOT / "gateway" / "guard" / "__main__.py"
STAND_IN = Path(__file__).with_name("stand_in.py")
SO_TIMESTAMPNS = 35


def start(spec: dict[str, object], **more: object) -> subprocess.Popen[str]:
    """Start the guard of a stand-in."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-I", "-S", str(GUARD), sys.executable, "-P", str(STAND_IN), json.dumps(spec)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **more)  # type: ignore[call-overload,no-any-return]


def one(freeze: bool, threads: int, heavy: bool, realtime: bool) -> float:
    """Kill one control; return the milliseconds to its letter."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        peer.settimeout(10)
        letter = ["127.0.0.1", peer.getsockname()[1], b"resigned".hex()]
        wills = {"vip": {"letters": [letter]}}
        guard = start({"wills": wills, "realtime": realtime, "heavy": heavy} | {"threads": threads})
        assert guard.stdout is not None
        try:
            pid = 0
            for line in guard.stdout:
                if line.startswith("ready"):
                    pid = int(line.split()[1])
                    break
            time.sleep(0.15)
            number = signal.SIGSTOP if freeze else signal.SIGKILL
            before_s = time.time()
            os.kill(pid, number)
            _data, ancillary, _, _ = peer.recvmsg(64, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
            return (seconds + nanoseconds / 1e9 - before_s) * 1000
        finally:
            guard.send_signal(signal.SIGTERM)
            guard.stdout.close()
            guard.wait(10)


def measure(kills: int, busy: int, freeze: bool, threads: int, heavy: bool, realtime: bool) -> None:
    """Print one line of the table."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        found = sorted(one(freeze, threads, heavy, realtime) for _ in range(kills))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    p50, p90, p99 = (found[min(int(len(found) * share), len(found) - 1)] for share in (0.5, 0.9, 0.99))
    what = "frozen" if freeze else "killed"
    print(
        f"{what}, {busy} busy processes, {threads} idle threads: {kills} times, letter after p50 {p50:.1f} ms, "
        f"p90 {p90:.1f} ms, p99 {p99:.1f} ms, max {found[-1]:.1f} ms",
        flush=True,
    )


def main() -> None:
    """Measure idle, then with busy CPUs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument(
        "--threads", type=int, default=0, help="idle ones: trio keeps them for 10 s after their last work"
    )
    parser.add_argument("--light", action="store_true", help="a control that imports little")
    parser.add_argument("--ordinary", action="store_true", help="control without real-time priority")
    chosen = parser.parse_args()
    for busy in chosen.busy:
        measure(chosen.kills, busy, chosen.freeze, chosen.threads, not chosen.light, not chosen.ordinary)


if __name__ == "__main__":
    main()
