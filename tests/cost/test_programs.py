"""Compiled programs are counted while a block runs, in all threads, and nobody listens afterwards."""

import os
import subprocess
import sys
from threading import Thread

import jax
import jax.numpy as jnp
import pytest
from jax._src import monitoring  # which listeners there are, nothing public says

import naivenas_jax as nas


def listeners():
    return [*monitoring._event_duration_secs_listeners, *monitoring._event_listeners]


def test_each_program_is_counted_once_and_by_name():
    def square(x):
        return x * x

    short, long, before = jnp.ones(3), jnp.ones(4), listeners()
    compute = jax.jit(square)
    with nas.count_programs() as programs:
        compute(short), compute(short)
        assert programs.names == ("square",)
        with nas.count_programs() as inner:
            compute(long)
        compute(long)
    assert inner.names == ("square",)
    assert programs.names == ("square", "square")
    assert programs.count == 2
    assert programs.seconds == pytest.approx(sum(seconds for _, seconds in programs.times))
    assert programs.seconds > 0
    assert repr(programs).startswith("2 programs in ")
    compute(jnp.ones(5))
    assert programs.count == 2
    assert listeners() == before


def test_programs_of_other_threads_are_counted():
    data = jnp.ones(3)
    with nas.count_programs() as programs:
        threads = [Thread(target=jax.jit(lambda x, i=i: x + i), args=(data,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert programs.names == ("<lambda>",) * 4


def test_nobody_listens_after_an_error_or_where_all_listeners_were_cleared():
    before = listeners()
    with pytest.raises(ZeroDivisionError), nas.count_programs():
        1 / 0  # noqa: B018
    assert listeners() == before
    script = (
        "import jax, naivenas_jax as nas\nwith nas.count_programs() as p:\n  jax.monitoring.clear_event_listeners()\n"
        "print(p)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "0 programs in 0 s\n", run.stderr


def test_programs_from_the_persistent_cache_are_told(tmp_path):
    script = (
        "import jax, jax.numpy as jnp, naivenas_jax as nas\n"
        "with nas.count_programs() as p: jax.jit(lambda x: jnp.sin(x) * 2)(3.0)\n"
        "print(p.count, p.read)"
    )
    env = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    found = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **env}).stdout
        for _ in range(2)
    ]
    assert found == ["1 0\n", "1 1\n"]
