"""One module per kind of primitive; importing this package fills the table."""

from naivenas_jax.trace.rules import (
    call as call,
)
from naivenas_jax.trace.rules import (
    contract as contract,
)
from naivenas_jax.trace.rules import (
    derivative as derivative,
)
from naivenas_jax.trace.rules import (
    elementwise as elementwise,
)
from naivenas_jax.trace.rules import (
    index as index,
)
from naivenas_jax.trace.rules import (
    loop as loop,
)
from naivenas_jax.trace.rules import (
    pick as pick,
)
from naivenas_jax.trace.rules import (
    random as random,
)
from naivenas_jax.trace.rules import (
    reduce as reduce,
)
from naivenas_jax.trace.rules import (
    reshape as reshape,
)
from naivenas_jax.trace.rules import (
    shape as shape,
)
from naivenas_jax.trace.rules import (
    update as update,
)
