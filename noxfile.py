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
# The tests come last, so that pytest's closing line does too. They include the docs, whose code the site has run.
nox.options.sessions = ["lint", "types", "imports", "short", "site", "tests"]

# The tests compile thousands of programs, many of them again and again: each is compiled once for both workers.
CACHED = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(".jax_cache").resolve()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

# Most of their time goes into compiling, and next to none into running what was compiled, on arrays of a few entries.
HASTILY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

PAGES_HAVE_RUN: dict[str, str] = {}  # what tells the tests that the site has just run the code of all pages

# Reading the source needs no installed package.
EXTRAS = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]

# With --no-venv the tools are those next to the python that runs nox, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely bugs, docstrings and dependencies. `nox -s lint -- --fix` repairs what it can."""
    session.install(*EXTRAS["lint"])
    session.run("ruff", "check", ".", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")
    session.run("deptry", "naivenas_jax")  # needs all that is declared, and nothing else
    folders = sorted(
        {str(path.parent) for top in ("benchmarks", "examples", "tests") for path in Path(top).rglob("*.py")}
    )
    session.run("deptry", "--ignore", "DEP002,DEP004", *folders)  # may use the extras


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
    session.run("pytest", "-n", "2", *session.posargs, env={**CACHED, **HASTILY, **PAGES_HAVE_RUN})


@nox.session
def zoo(session: nox.Session) -> None:
    """Third-party models, changed and compared; writes docs/benchmarks/zoo.md. `-- --only jraphx/` runs a part."""
    session.install("-e", ".[test,zoo]")
    session.install("--no-deps", "-r", "tests/zoo/no_deps.txt")
    session.run("python", "tests/zoo/table.py", *session.posargs, env={**CACHED, "JAX_PLATFORMS": "cpu"})
    session.run("python", "docs/_site/gallery.py")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Chains of random mutations on random networks: `nox -s fuzz -- --chains 200 --seed 0`."""
    session.install("-e", ".[test]")
    session.run("python", "tests/fuzz/fuzz.py", *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def search(session: nox.Session) -> None:
    """Searches on workers of Ray, some of which are killed."""
    session.install("-e", ".[search,test]")
    session.run("pytest", "tests/search/test_search_example.py", "tests/search/test_search_on_ray.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Runs the code of all pages, and builds the site from them: docs/_build/site/index.html."""
    session.install("-e", ".[docs,test]")
    session.run("pytest", "-n", "2", "tests/test_docs.py", env=CACHED)
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build/site", *session.posargs)
    PAGES_HAVE_RUN["PAGES_HAVE_RUN"] = "1"


@nox.session
def docs(session: nox.Session) -> None:
    """Only the code in README.md and docs/."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, or those named."""
    session.install("-e", ".[examples,test]")
    _run_each(session, "benchmarks")


@nox.session
def short(session: nox.Session) -> None:
    """Every benchmark and example, or those named, with so little data that it only shows that they run."""
    session.install("-e", ".[examples,test]")
    named = ["-k", " or ".join(Path(name).stem for name in session.posargs)] if session.posargs else []
    session.run("pytest", "-n", "2", "-m", "scripts", "tests/test_scripts.py", *named, env=CACHED)


def _run_each(session: nox.Session, folder: str) -> None:
    """All scripts of a folder, or those named."""
    if not session.posargs:
        session.run("python", "tests/scripts.py", folder)
    for script in session.posargs:
        session.run("python", script)
