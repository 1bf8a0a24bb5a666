"""Tests run on the CPU and are the same every time."""

import itertools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax

import jax
import jaxtyping
import pytest
from hypothesis import settings

for _name in ("default", "ci"):
    settings.register_profile(_name, derandomize=True, deadline=None)
settings.load_profile("default")


def pytest_runtest_setup(item: pytest.Item):
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("wrong_types") is not None)


_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Compiled programs are kept for as long as the process lives, and thousands of tests compile gigabytes of them."""
    if next(_ended) % 200 == 0:
        jax.clear_caches()
