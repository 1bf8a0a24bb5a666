"""Code in a new Python process, which holds no programs that other tests have compiled."""

import subprocess
import sys
from pathlib import Path


def run_in_a_process(code: str, *arguments: object) -> str:
    """What the code prints, in a process that finds the modules of the tests; ``arguments`` are its arguments."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
