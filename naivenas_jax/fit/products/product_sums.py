"""The products in a network whose factors may be written in other axes, and sums over the rows of their factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from naivenas_jax.dataflow.products.products import Product, candidates, products_of
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.dataflow.variable_uses import ignore
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, on_device
from naivenas_jax.fit.regression.ridge import added, not_finite
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables

#: The weights of a product and which of their columns are contracted: the same at all shapes of the inputs.
Key: TypeAlias = tuple[Path, Path, bytes, bytes]
#: Sums over the rows of both factors, for each group.
Sums: TypeAlias = tuple[Float[Array, "G R R"], Float[Array, "G R R"]]


@dataclass(frozen=True, eq=False)
class ProductSums:
    """A network on data, with an eye on its products of activations.

    Attributes:
      network: the network.
      variables: its variables.
      data: batches.
    """

    network: Network
    variables: Variables
    data: Data
    _known: dict[Tape, dict[Key, Product]] = field(default_factory=dict)

    def products(self) -> dict[Key, Product]:
        """The products that there are at all shapes of the inputs, as they are on the first batch."""
        first = self._found(self.data.first)
        if not first:
            return {}
        found = [self._found(inputs) for inputs in self.data]
        return {key: one for key, one in first.items() if all(key in own for own in found)}

    def sums(self, keys: Sequence[Key]) -> list[Sums]:
        """The sums over the rows of some products, on all batches.

        Raises:
          VariablesError: if they are not finite.
        """
        variables, total = on_device(self.variables), None
        at_shape: dict[Tape, tuple[Product, ...]] = {}
        for number, inputs in enumerate(self.data):
            tape, found = self.network.tape(variables, inputs), self._found(inputs)
            own = at_shape.setdefault(tape, tuple(found[key] for key in keys))
            sums = self.network.compiled(_sums, tape, own)(variables, tape.start(inputs))
            if not all(np.isfinite(array).all() for array in jax.tree.leaves(sums)):
                raise not_finite(f"a product of activations on batch {number}")
            total = added(total, sums, "")
        assert total is not None
        return list(total)

    def _found(self, inputs: Batch) -> Mapping[Key, Product]:
        tape = self.network.tape(self.variables, inputs)
        if tape not in self._known:
            found = products_in(self.network, self.variables, inputs)
            self._known[tape] = {_key(product): product for product in found}
        return self._known[tape]


def products_in(network: Network, variables: Variables, inputs: Batch) -> list[Product]:
    """The products of a network on inputs of these shapes."""
    tape = network.tape(variables, inputs)
    return products_of(tape, variables, network.uses(variables, inputs)) if any(candidates(tape)) else []


def _key(product: Product) -> Key:
    left, right = (factor.entries[factor.path].tobytes() for factor in product.factors)
    return *product.paths, left, right


def _sums(tape: Tape, products: Sequence[Product], variables: Variables, live: Values) -> list[Sums]:
    """The sums over the rows of some products on one batch."""
    found, start, arrays = dict[Product, Sums](), 0, flat(variables)
    for product in sorted(products, key=lambda product: product.step):
        live, start = walk_tape(tape, variables, live, ignore, start, product.step), product.step
        left, right = (_squares(factor.by_group(live, arrays)) for factor in product.factors)
        found[product] = left, right
    return [found[product] for product in products]


def _squares(rows: Float[Array, "G n R"]) -> Float[Array, "G R R"]:
    rows = jnp.asarray(rows, jnp.float32)
    found: Array = jnp.einsum("gnr,gns->grs", rows, rows, precision=jax.lax.Precision.HIGHEST)
    return found
