"""What a search may change: `SearchSpace`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import flax.linen as nn
import jax

from naivenas_jax.align.problem.request import To
from naivenas_jax.checks import as_count, as_items, as_number, require_function, require_ladder, shown
from naivenas_jax.errors import RequestError
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.pickling import reduced_fields
from naivenas_jax.search.draws import Draws
from naivenas_jax.search.makers import DEFAULT_MAKERS

#: A factor by which a size may grow or shrink in one mutation, or all sizes that there may be.
Sizes: TypeAlias = float | Sequence[int]
#: Gets a vertex and returns a new one that reads it, as for `insert_vertex`.
Maker: TypeAlias = Callable[[Vertex], Vertex]
#: A function of an array, as of an `invariant_vertex`.
Activation: TypeAlias = Callable[[jax.Array], jax.Array]

_ACTIVATIONS: tuple[Activation, ...] = (nn.relu, nn.gelu, nn.silu, nn.tanh, nn.elu, nn.leaky_relu)


@dataclass(frozen=True)
class Point:
    """One point of a `SearchSpace`: a size for each handle that it names, and what is inserted where.

    Attributes:
      sizes: the size of each handle.
      makers: what is inserted after each vertex, for `insert_vertex`; None: nothing.
    """

    sizes: Mapping[str, int]
    makers: Mapping[str, Maker | None]

    @property
    def request(self) -> dict[str, To]:
        """The sizes as a request: ``nas.delta_nout(graph, variables, point.request)``."""
        return {handle: To(size) for handle, size in self.sizes.items()}


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """What a search may change, and to what: see `random_mutation`.

    Attributes:
      sizes: the sizes that there may be: a ladder, which is a sequence in ascending order (``[16, 24, 32]``,
        ``range(8, 65, 8)``); or a factor above 1, by which a size is multiplied or divided at the most in one mutation
        (to the nearest size that is feasible). Or a mapping from handles or patterns of handles (``"conv*"``) to these:
        then no other sizes are drawn, and others change only where they are tied to one that is. By default a factor of
        2 for every handle but the inputs and outputs of the graph, which change only if a mapping names them.
      makers: what is inserted: functions as for `insert_vertex`. A name that is taken gets a number. Or a mapping from
        names or patterns of vertices (of modules, in an imported model) to several of these: what may be inserted after
        them. By default a dense layer, a convolution where there are two spatial axes, and a relu.
      kernels: window sizes of convolutions, the same along each spatial axis.
      activations: functions of which one may take the place of another.
      protected: names or patterns of vertices and handles. Their sizes stay, they are neither removed nor replaced,
        keep their kernel and activation, and edges to them neither come nor go.
      max_vertices: a graph that has as many vertices gets no more.

    Raises:
      RequestError: names the attribute, and says what it may be.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> space = nas.SearchSpace(sizes={"hidden": [4, 8, 16]})
    >>> nas.random_mutation(graph, variables, jax.random.key(0), {"width_up": 1}, space=space).graph.nout("hidden")
    16
    """

    sizes: Sizes | Mapping[str, Sizes] = 2.0
    makers: Sequence[Maker] | Mapping[str, Sequence[Maker]] = DEFAULT_MAKERS
    kernels: Sequence[int] = (1, 3, 5, 7)
    activations: Sequence[Activation] = _ACTIVATIONS
    protected: Sequence[str] = ()
    max_vertices: int | None = None

    def __post_init__(self) -> None:
        sizes = self.sizes.items() if isinstance(self.sizes, Mapping) else [("sizes", self.sizes)]
        frozen = {str(name): _sizes(name, given) for name, given in sizes}
        self._set("sizes", frozen if isinstance(self.sizes, Mapping) else frozen["sizes"])
        if isinstance(self.makers, Mapping):
            self._set("makers", {str(name): _functions("makers", each) for name, each in self.makers.items()})
        else:
            self._set("makers", _functions("makers", self.makers))
        self._set("activations", _functions("activations", self.activations))
        self._set("kernels", require_ladder("kernels", self.kernels, RequestError))
        names = (self.protected,) if isinstance(self.protected, str) else as_items(self.protected)
        if names is None or not all(isinstance(name, str) for name in names):
            raise RequestError(f"protected must be names of vertices or handles, found {shown(self.protected)}.")
        self._set("protected", names)
        if self.max_vertices is not None and as_count(self.max_vertices) is None:
            raise RequestError(f"max_vertices must be a whole number or None, found {shown(self.max_vertices)}.")

    def __reduce__(self) -> tuple[object, ...]:
        return reduced_fields(self, SearchSpace)  # functions of Flax cannot all be pickled by their names

    def sample(self, key: jax.Array) -> Point:
        """A point of the space, each as likely as any other.

        The law is uniform over the product of what is named: each handle of ``sizes`` has any size of its ladder, and
        after each vertex of ``makers`` nothing is inserted or what one of its makers makes, each with the same
        probability and independently of all else. Ties are not known here: of handles that are the same neurons name
        one, and where a layer or a sum limits sizes, `delta_nout` says which can be had. Kernels, activations and
        ``max_vertices`` are of mutations, and take no part.

        Args:
          key: a PRNG key. The same key gives the same point on every machine.

        Returns:
          A `Point`: ``sizes`` by handle, ``makers`` by vertex, and ``request``, which `delta_nout` takes.

        Raises:
          RequestError: if the space names no handles and no vertices, gives a factor in place of a ladder, or a pattern
            in place of a name.
          PlanError: if ``key`` is no key.

        >>> import jax, naivenas_jax as nas
        >>> space = nas.SearchSpace(sizes={"hidden": [4, 8, 16], "deep": range(1, 5)})
        >>> space.sample(jax.random.key(0)).sizes, space.size()
        ({'hidden': 16, 'deep': 4}, 12)
        """
        draws = Draws(key)
        sizes, makers = self._choices()
        return Point(
            {handle: draws.one_of(ladder) for handle, ladder in sizes.items()},
            {name: draws.one_of((None, *several)) for name, several in makers.items()},
        )

    def size(self) -> int:
        """The number of points that `sample` draws from: the product of the numbers of choices.

        Returns:
          A whole number of any size.

        Raises:
          RequestError: as `sample`.

        >>> import naivenas_jax as nas
        >>> nas.SearchSpace(sizes={f"layer{i}": range(8, 65, 8) for i in range(40)}).size() == 8**40
        True
        """
        sizes, makers = self._choices()
        return math.prod(map(len, sizes.values())) * math.prod(1 + len(several) for several in makers.values())

    def _choices(self) -> tuple[dict[str, Sequence[int]], Mapping[str, Sequence[Maker]]]:
        """The ladders by handle and the makers by vertex.

        Raises:
          RequestError: if the points cannot be told by names alone.
        """
        sizes = self.sizes if isinstance(self.sizes, Mapping) else {}
        makers = self.makers if isinstance(self.makers, Mapping) else {}
        ladders = {name: ladder for name, ladder in sizes.items() if not isinstance(ladder, float)}
        if not sizes and not makers:
            raise RequestError(
                "The points of a space are told by names: SearchSpace(sizes={'hidden': [4, 8, 16]}) has three. Found "
                "neither a mapping of sizes nor one of makers."
            )
        for name in sizes.keys() - ladders.keys():
            raise RequestError(
                f"sizes of {name!r}: the factor {sizes[name]} says how far one mutation may go, and not which sizes "
                "there are. Give all of them to sample: [16, 24, 32]."
            )
        for name in [*sizes, *makers]:
            if any(sign in name for sign in "*?["):
                raise RequestError(f"{name!r} is a pattern, and how many it stands for depends on a graph. Name each.")
        return ladders, makers

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _sizes(name: object, given: object) -> Sizes:
    """Sizes as they may be given, checked.

    Raises:
      RequestError: if they are neither a factor nor a ladder.
    """
    factor = as_number(given)
    if factor is None:
        return require_ladder(f"sizes of {name!r}" if name != "sizes" else "sizes", given, RequestError)
    if not 1 < factor < math.inf:
        raise RequestError(f"sizes: a factor must be a number above 1, found {shown(given)}.")
    return float(factor)


def _functions(argument: str, given: object) -> tuple[Callable[..., object], ...]:
    """Functions of one argument.

    Raises:
      RequestError: names the argument.
    """
    items = as_items(given)
    if items is None:
        raise RequestError(f"{argument} must be several functions of a vertex, found {shown(given)}.")
    what = "vertex" if argument == "makers" else "array"
    for each in items:
        require_function(each, f"{argument}: each", what, RequestError)
    return tuple(each for each in items if callable(each))
