"""The table of docs/gallery.md, from docs/benchmarks/zoo.md: `python docs/_site/gallery.py` writes it."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
BEGIN, END = "<!-- table: python docs/_site/gallery.py -->", "<!-- end of the table -->"


def zoo() -> list[dict[str, str]]:
    """The rows of the zoo's large table."""
    lines = (DOCS / "benchmarks" / "zoo.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| package | model |"))
    names = cells(lines[start])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table() -> str:
    """One row for each package."""
    by_package: dict[str, list[dict[str, str]]] = {}
    for row in zoo():
        by_package.setdefault(row["package"], []).append(row)
    lines = ["| package | models | imported as | can change | own class back |", "|---|---|---|---|---|"]
    for package, rows in by_package.items():
        shares = [float(row["resizable"].rstrip("%")) for row in rows]
        share = "all" if min(shares) == 100 else f"{min(shares):g} % or more"
        back = [row["rebuilt"] for row in rows if row["rebuilt"]]
        own = f"{back.count('yes')} of {len(back)}" if back else ""
        models, ways = "; ".join(row["model"] for row in rows), ", ".join(dict.fromkeys(row["as"] for row in rows))
        lines.append(f"| [{package}](https://pypi.org/project/{package}/) | {models} | {ways} | {share} | {own} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table of today."""
    return re.sub(f"(?s){BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", text)


def main() -> None:
    path = DOCS / "gallery.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
