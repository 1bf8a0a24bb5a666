"""The way of a newcomer by the pages alone, timed: `python docs/_site/newcomer.py`.

From a fresh clone: the commands of docs/install.md; the code of docs/quick_start.md, one way of Flax after the other,
each in a process of its own; the code of docs/training.md, which reloads in further processes.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run_pages


def commands(text: str) -> list[str]:
    """The shell commands of a page."""
    return re.findall(r"(?m)^```\n(.*?)^```$", text, re.DOTALL)


def programs(text: str) -> dict[str, str]:
    """The code of each tab of a page."""
    before, *tabs = re.split(r"<!-- tab: (\w+) -->", text.partition("<!-- tabs end -->")[0])
    return {
        name: "".join(block.code for block in run_pages.read_blocks(before + tab))
        for name, tab in zip(tabs[::2], tabs[1::2], strict=True)
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        install = "\n".join(commands((run_pages.ROOT / "docs" / "install.md").read_text(encoding="utf-8")))
        run("clone", ["git", "clone", "-q", str(run_pages.ROOT), "naivenas_jax"], folder)
        run("install", ["bash", "-euc", install], str(Path(folder, "naivenas_jax")))
        python = str(Path(folder, "naivenas_jax", ".venv", "bin", "python"))
        for page, needs in (("quick_start", ""), ("training", "orbax-checkpoint")):
            if needs:
                run(f"pip install {needs}", [python, "-m", "pip", "install", "-q", needs], folder)
            text = Path(folder, "naivenas_jax", "docs", f"{page}.md").read_text(encoding="utf-8")
            for name, program in programs(text).items():
                place = Path(folder, f"{page}_{name}")
                place.mkdir()
                (place / "program.py").write_text(program, encoding="utf-8")
                print(run(f"{page}, {name}", [python, "program.py"], str(place)))
        print(f"{time.perf_counter() - begin:.0f} s in all")


def run(what: str, command: list[str], folder: str) -> str:
    """Runs a command and says how long it took."""
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(f"{time.perf_counter() - begin:5.0f} s  {what}", flush=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
