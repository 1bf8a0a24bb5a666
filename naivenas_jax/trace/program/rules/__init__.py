"""One module per kind of primitive; importing this package fills the tables."""

from naivenas_jax.trace.program.rules import (
    call as call,
    contract as contract,
    derivative as derivative,
    elementwise as elementwise,
    index as index,
    loop as loop,
    pick as pick,
    random as random,
    reduce as reduce,
    shape as shape,
    silence as silence,
    update as update,
)
