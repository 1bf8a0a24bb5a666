"""Parts that an nnx model holds twice: a layer under two attributes, a parameter that two layers share.

A model has the variables of such a part once, under the place that comes first. To ``jax.tree_util``, which takes a
model for a tree, there is another part at each place. So what is carried has the part at its first place alone, and
the result has it at all places again.
"""

from __future__ import annotations

import jax
from flax import nnx

from naivenas_jax.transfer.carrying.key_paths import KeyPath
from naivenas_jax.transfer.carrying.states import is_hole, one_level
from naivenas_jax.typing import PyTree

#: For each further place of a shared part its first place.
Places = dict[KeyPath, KeyPath]


def held_once(tree: PyTree) -> tuple[PyTree, Places]:
    """The tree, in which shared parts of models lie at their first places alone, and all their other places.

    Models share parts within themselves; two models of one tree are carried each by itself.

    >>> class Twice(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.first = nnx.Linear(2, 2, use_bias=False, rngs=rngs)
    ...         self.second = self.first
    >>> once, places = held_once(Twice(nnx.Rngs(0)))
    >>> len(jax.tree.leaves(once)), [jax.tree_util.keystr(place) for place in places]
    (1, ['.second'])
    """
    places: Places = {}
    models, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_model)
    for keys, model in models:
        if _is_model(model):
            _find(model, keys, {}, places)
    return (_without(tree, (), places) if places else tree), places


def held_again(tree: PyTree, places: Places) -> PyTree:
    """The tree with its shared parts at all places; the other way round from `held_once`."""
    if not places:
        return tree
    return _with(tree, (), places, dict.fromkeys(places.values()))


def _is_model(node: object) -> bool:
    return isinstance(node, nnx.Module)


def _find(node: PyTree, keys: KeyPath, first: dict[int, KeyPath], places: Places) -> None:
    """Note the places of what was met before, as ``first`` knows by identity."""
    if isinstance(node, nnx.Pytree | nnx.Variable):
        if id(node) in first:
            places[keys] = first[id(node)]
            return
        first[id(node)] = keys
    level = None if is_hole(node) else one_level(node)
    for key, child in level[0] if level else ():
        _find(child, (*keys, key), first, places)


def _without(node: PyTree, keys: KeyPath, places: Places) -> PyTree:
    if keys in places:
        return ()  # a node without leaves
    level = None if is_hole(node) else one_level(node)
    if level is None:
        return node
    return level[1].unflatten([_without(child, (*keys, key), places) for key, child in level[0]])


def _with(node: PyTree, keys: KeyPath, places: Places, found: dict[KeyPath, PyTree]) -> PyTree:
    if keys in places:
        return found[places[keys]]  # first places come first in a tree
    level = None if is_hole(node) else one_level(node)
    made = node
    if level is not None:
        made = level[1].unflatten([_with(child, (*keys, key), places, found) for key, child in level[0]])
    if keys in found:
        found[keys] = made
    return made
