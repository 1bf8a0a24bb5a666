"""How many programs JAX compiles while something runs, and how long that takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax

#: What JAX says after each program, whether it was compiled or read from the persistent cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"
#: What JAX says besides if it was read from there.
_READ = "/jax/compilation_cache/cache_hits"


class CompiledPrograms:
    """The programs that JAX has compiled inside of `count_programs`, so far.

    Operations outside of ``jax.jit`` are programs as well, a small one for each shape.

    Attributes:
      times: for each program the name of its function, and for how many seconds it was compiled, by the clock.
      read: how many of them were not compiled, but read from the persistent cache.

    >>> import jax, naivenas_jax as nas
    >>> with nas.count_programs() as programs:
    ...     _ = jax.jit(lambda x: x + 1)(3)
    >>> programs.count, programs.names, programs.seconds > 0
    (1, ('<lambda>',), True)
    >>> programs.times[0][0], programs.read <= programs.count
    ('<lambda>', True)
    """

    def __init__(self) -> None:
        self._times: list[tuple[str, float]] = []
        self._read: list[str] = []

    @property
    def times(self) -> tuple[tuple[str, float], ...]:
        """Name and seconds of each program, in order."""
        return tuple(self._times)

    @property
    def read(self) -> int:
        """How many programs were read from the persistent cache."""
        return len(self._read)

    @property
    def count(self) -> int:
        """How many programs there are."""
        return len(self._times)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the function of each program, in order."""
        return tuple(name for name, _ in self.times)

    @property
    def seconds(self) -> float:
        """How long compiling has taken in all. Tracing, which comes before, is not counted."""
        return sum(seconds for _, seconds in self.times)

    def __repr__(self) -> str:
        read = f", {self.read} of them read from the persistent cache" if self.read else ""
        return f"{self.count} programs in {self.seconds:.3g} s{read}"


@contextmanager
def count_programs() -> Iterator[CompiledPrograms]:
    """Count the programs that JAX compiles in a ``with`` block, in all threads of the process.

    Returns:
      For ``with`` to give it a name: the `CompiledPrograms`, to be read inside of the block and after it.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables, batch = graph.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((5, 3))
    >>> sizes = [nas.delta_nout(graph, variables, {"hidden": change}) for change in (-5, -1, -1)]
    >>> evaluate = jax.jit(nas.apply)
    >>> with nas.count_programs() as programs:
    ...     outputs = [evaluate(*mutation, batch) for mutation in sizes]
    >>> programs.names.count("apply")
    2
    """
    found = CompiledPrograms()

    def compiled(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            found._times.append((_plain(str(kwargs.get("fun_name", ""))), duration_secs))

    def read(event: str, **kwargs: str | int) -> None:
        if event == _READ:
            found._read.append(str(kwargs))

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(read)
    try:
        yield found
    finally:
        with suppress(AssertionError, ValueError):  # somebody has cleared all listeners
            jax.monitoring.unregister_event_duration_listener(compiled)
        with suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_listener(read)


def _plain(name: str) -> str:
    """The name of a function out of that of its program, ``jit(name)``."""
    inner = re.fullmatch(r"\w+\((.*)\)", name)
    return inner[1] if inner else name
