"""Which edits a graph allows: the questions, and what answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import ClassVar, Protocol


class EditRules(Protocol):
    """What is known of the edits of one graph: see `naivenas_jax.mutate.rules.legal_edits`."""

    def can_read(self, source: str, target: str) -> bool:
        """Whether a vertex or module may read another one."""

    def edges_to_create(self) -> Iterator[tuple[str, str]]:
        """The edges that may be created."""

    def names_that_can_go(self) -> Iterator[str]:
        """The vertices and modules that may be removed."""

    def edges_that_can_go(self) -> Iterator[tuple[str, str]]:
        """The edges that may be removed."""


class EditQueries:
    """The methods of a graph that tell which edits would succeed. What was asked once is remembered.

    They ask the rules that the verbs ask, which lie above: these put themselves here.
    """

    _rules: ClassVar[Callable[[object], EditRules]]

    @cached_property
    def _edits(self) -> EditRules:
        return type(self)._rules(self)

    def can_read(self, source: str, target: str) -> bool:
        """Whether ``nas.create_edge(graph, variables, source, target)`` succeeds.

        It does where ``source`` does not depend on ``target``, which takes any number of inputs; where the positions of
        both fit together; and where sizes exist that satisfy all ties, with inputs and outputs of the graph as they
        are. Variables are not needed, and no layer is computed.

        Args:
          source: name of the vertex to read; inside an imported model the path of a module.
          target: name of the vertex that is to read it, likewise.

        Returns:
          Whether the verb, with its defaults, makes a mutation.

        Raises:
          UnknownNameError: if there is no vertex or module of one of the names.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
        >>> graph.can_read("a", "cat"), graph.can_read("a", "b"), graph.can_read("out", "cat")
        (True, False, False)
        """
        return self._edits.can_read(source, target)

    def legal_edges(self) -> tuple[tuple[str, str], ...]:
        """The edges that may be created: every pair for which `can_read` is True.

        Returns:
          Pairs ``(source, target)``, by target; of vertices, and of modules inside an imported model. ``target`` may
          read ``source`` already.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
        >>> graph.legal_edges()
        (('x', 'cat'), ('a', 'cat'), ('b', 'cat'))
        """
        return tuple(self._edits.edges_to_create())

    def removable(self) -> tuple[str, ...]:
        """The vertices that ``nas.remove_vertex(graph, variables, name)`` removes.

        Returns:
          Names of vertices, and paths of modules inside an imported model, in order.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> hidden = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(8), x))
        >>> nas.Graph(x, nas.layer("out", nn.Dense(2), hidden)).removable()
        ('hidden', 'act')
        """
        return tuple(self._edits.names_that_can_go())

    def removable_edges(self) -> tuple[tuple[str, str], ...]:
        """The edges that ``nas.remove_edge(graph, variables, source, target)`` removes.

        Returns:
          Pairs ``(source, target)`` of vertices, by target. Inside an imported model only whole modules are removed.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> a, b = nas.layer("a", nn.Dense(4), x), nas.layer("b", nn.Dense(5), x)
        >>> nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b))).removable_edges()
        (('a', 'cat'), ('b', 'cat'))
        """
        return tuple(self._edits.edges_that_can_go())


def answered_by(rules: Callable[[object], EditRules]) -> None:
    """Let the questions be answered.

    Args:
      rules: gets a graph, and returns what is known of its edits.
    """
    EditQueries._rules = staticmethod(rules)
