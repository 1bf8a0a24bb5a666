"""The pages that lead a stranger through the code name files that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "naivenas_jax"


def test_where_to_change_what_names_files_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.split("## Where to change what")[1].split("\n## ")[0]
    named = re.findall(r"`((?:[\w.]+/)+(?:\w+\.\w+)?)`", table)
    assert len(named) > 20
    assert [name for name in named if not ((PACKAGE / name).exists() or (ROOT / name).exists())] == []
