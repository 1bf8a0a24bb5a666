"""Random numbers of nnx layers: keys come from the scope, as in linen, and are no part of the variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

import jax
from flax import nnx
from flax.core import Scope

from naivenas_jax.errors import GraphError

#: Where recurrent layers draw their initial state from. Without a key it is key 0, as in nnx.RNN unless told otherwise.
_CARRY = "carry"
#: Layers that fork a stream for one purpose; its tag is "default" if it was forked from one of that name.
_PURPOSE = (nnx.MultiHeadAttention, nnx.RNN, nnx.Bidirectional, nnx.RNNCellBase)


class Absent(nnx.RngStream):
    """Stands where a layer has a stream of random numbers, while there is none."""

    def __init__(self, collection: str):
        """Stand for a stream of keys of this collection."""
        self.tag = collection

    def __call__(self) -> NoReturn:
        """Raise: there is no stream to draw from."""
        raise GraphError(
            f"A layer needs random numbers. Pass graph.apply(..., rngs={{{self.tag!r}: key}}), or train=False, where "
            f"it needs none; to an import, rngs={{{self.tag!r}: key}}; to a model that graph.as_nnx made, "
            f"rngs=nnx.Rngs({self.tag}=0), or call model.eval()."
        )


def disconnect(module: nnx.Module) -> None:
    """Take all streams out of a layer, and their keys and counts with them. What was one stream is one afterwards."""
    absent: dict[int, Absent] = {}
    for owner, name, collection in list(_stream_places(module)):
        stream = getattr(owner, name)
        shared = absent.setdefault(id(stream), Absent(collection)) if stream is not None else Absent(collection)
        setattr(owner, name, shared)


def connect(module: nnx.Module, scope: Scope) -> None:
    """Put in streams that start from the scope's keys, as far as it has any."""
    for owner, name, collection in list(_stream_places(module)):
        if scope.has_rng(collection) or scope.has_rng("params"):  # Flax falls back on "params" while initialising
            setattr(owner, name, nnx.RngStream(scope.make_rng(collection), tag=collection))
        elif collection == _CARRY:
            setattr(owner, name, nnx.RngStream(0, tag=collection))


def reconnect(module: nnx.Module, rngs: Mapping[str, jax.Array | int]) -> None:
    """Put in streams that start from these keys, as far as there are any, in the way that ``nnx.reseed`` does."""
    source, fresh = nnx.Rngs(**rngs), {}
    for _, node in list(nnx.iter_graph(module)):
        if isinstance(node, Absent) and (node.tag in rngs or "default" in rngs):
            fresh[id(node)] = nnx.RngStream(source[node.tag](), tag=node.tag)
        elif isinstance(node, Absent) and node.tag == _CARRY:
            fresh[id(node)] = nnx.RngStream(0, tag=_CARRY)
    for owner, name, _ in list(_stream_places(module)):
        stream = fresh.get(id(getattr(owner, name)))
        if stream is not None:
            setattr(owner, name, stream)


def streams(scope: Scope) -> nnx.Rngs:
    """All keys of the scope, for layers that take ``rngs=``."""
    default = {"default": scope.make_rng("params")} if scope.has_rng("params") else {}
    return nnx.Rngs(**{**default, **{name: scope.make_rng(name) for name in scope.rngs}})


def _stream_places(module: nnx.Module) -> Iterator[tuple[object, str, str]]:
    """Where a layer keeps streams: the owner, the attribute, and the collection of keys it draws from."""
    for _, owner in nnx.iter_graph(module):
        if isinstance(owner, nnx.Dropout):  # whether it was given a stream of its own makes no difference here
            yield owner, "rngs", owner.rng_collection
        elif isinstance(owner, _PURPOSE):
            if getattr(owner, "rngs", None) is not None:
                yield owner, "rngs", "dropout" if isinstance(owner, nnx.MultiHeadAttention) else _CARRY
        elif isinstance(owner, nnx.Pytree):
            for name, value in vars(owner).items():
                if isinstance(value, nnx.RngStream):
                    yield owner, name, name if isinstance(owner, nnx.Rngs) else value.tag
