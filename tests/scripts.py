"""The files of a folder that do something when they are run: `python tests/scripts.py examples` runs each."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def scripts(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).glob("*.py"))
    return [path for path in files if "__main__" in path.read_text(encoding="utf-8")]


if __name__ == "__main__":
    for script in scripts(sys.argv[1]):
        print(f"-- {script.name}", flush=True)
        subprocess.run([sys.executable, script], cwd=ROOT, check=True)
