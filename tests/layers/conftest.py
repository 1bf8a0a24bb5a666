"""What the tests of layers share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """For modules whose tests compile a few small programs each, and run each of them once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # the option is no part of the key of a compiled program: no later test is to meet these
