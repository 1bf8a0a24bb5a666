"""What a measurement was made with, and what it took: the lines at the head of every table, CPU time and memory."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def machine() -> str:
    """The cores of this machine, and what they are."""
    return f"{os.cpu_count()} x {processor()}"


def revision() -> str:
    """The commit that is checked out; empty outside of a repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def measured_with(*packages: str) -> dict[str, str]:
    """What the head of a table says: date, machine, python, revision, and the versions of these packages."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "python": platform.python_version(),
        "revision": revision() or "an unknown revision",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
    }


def measured(prepared: Callable[[], Callable[[], object]], runs: int = 3) -> dict[str, float | None]:
    """CPU seconds and peak memory of something that `prepared` makes ready.

    Returns:
      "seconds", the median of several runs after a first one, and "peak", the bytes of memory that the first one took
      beyond what the process had; None where the system does not say.
    """
    run = prepared()
    before = _resident(reset=True)
    held = run()
    peak = _resident()
    del held, run
    times = []
    for _ in range(runs):
        run = prepared()
        start = time.process_time()
        held = run()
        times.append(time.process_time() - start)
        del held, run
    return {"seconds": statistics.median(times), "peak": None if peak is None or before is None else peak - before}


def _resident(reset: bool = False) -> int | None:
    """The largest memory of the process since it was last reset, in bytes; None where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    if reset:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is not taken for free
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
