"""Tests run on the CPU and are the same every time."""

import itertools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax

import jax
import jaxtyping
import pytest
from hypothesis import settings

from naivenas_jax.align.problem.deadline import Deadline, StoppedError

for _name in ("default", "ci"):
    settings.register_profile(_name, derandomize=True, deadline=None)
settings.load_profile("default")


_enter, _exit = pytest.RaisesExc.__enter__, pytest.RaisesExc.__exit__


def _enter_unchecked(self):
    """Inside `pytest.raises` arguments are wrong on purpose: what is said about them is ours and not beartype's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    return _enter(self)


def _exit_unchecked(self, *error):
    jaxtyping.config.update("jaxtyping_disable", False)
    return _exit(self, *error)


pytest.RaisesExc.__enter__, pytest.RaisesExc.__exit__ = _enter_unchecked, _exit_unchecked


_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Compiled programs are kept for as long as the process lives, and thousands of tests compile gigabytes of them."""
    if next(_ended) % 200 == 0:
        jax.clear_caches()


@pytest.fixture
def strike(monkeypatch):
    """``strike(n)`` lets the time limit strike when time has been asked for n times."""

    def strike_at(n):
        calls = iter(range(10**6))

        def remaining(self):
            if next(calls) >= n:
                raise StoppedError
            return 1e9

        monkeypatch.setattr(Deadline, "remaining", remaining)

    return strike_at


@pytest.fixture
def unchecked():
    """Annotations are not checked: arguments are wrong on purpose."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
