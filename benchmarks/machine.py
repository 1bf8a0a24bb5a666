"""What a measurement was made with: the lines at the head of every table."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
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
