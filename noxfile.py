"""What can be checked, session by session. `nox` alone runs what CI runs.

In one venv that has everything (`pip install -e '.[dev]'`): `nox --no-venv --no-install`.
Otherwise nox makes a venv for each session and installs what the session needs.
"""

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.reuse_venv = "yes"
# The tests come last, so that pytest's closing line does too. They include the docs.
nox.options.sessions = ["lint", "types", "imports", "examples", "tests"]

# Reading the source needs no installed package.
EXTRAS = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]

# With --no-venv the tools are those next to the python that runs nox, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely bugs. `nox -s lint -- --fix` repairs what it can."""
    session.install(*EXTRAS["lint"])
    session.run("ruff", "check", ".", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Type check."""
    session.install("-e", ".[types]")
    session.run("mypy", *session.posargs)


@nox.session
def imports(session: nox.Session) -> None:
    """The layers of docs/architecture.md."""
    session.install(*EXTRAS["imports"])
    session.run("lint-imports", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, or those named: `nox -s examples -- examples/digits.py`."""
    session.install("-e", ".[examples]")
    _run_each(session, "examples")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but the slow ones. Arguments go to pytest: `nox -s tests -- -k plan`."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """Third-party models: import, shrink, grow, compare. `python tests/zoo/table.py` writes the table in docs/."""
    session.install("-e", ".[test,zoo]")
    session.run("pytest", "-m", "zoo", "tests/zoo", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Only the code in README.md and docs/."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, or those named."""
    session.install("-e", ".[test]")
    _run_each(session, "benchmarks")


def _run_each(session: nox.Session, folder: str) -> None:
    for script in session.posargs or sorted(map(str, Path(folder).glob("*.py"))):
        session.run("python", script)
