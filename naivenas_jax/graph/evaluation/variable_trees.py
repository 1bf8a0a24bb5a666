"""Variables as people hold them: nested mappings, modules and lists of arrays, any pytrees; and by path."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, MutableMapping
from typing import Any, TypeGuard, TypeVar

import jax
import numpy as np
from flax import core, nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from naivenas_jax.checks import shown
from naivenas_jax.errors import VariablesError
from naivenas_jax.paths import Path, key_text
from naivenas_jax.typing import Array, PyTree, Shape

ValueT = TypeVar("ValueT")


def flat(variables: PyTree) -> dict[Path, Any]:
    """All arrays by path.

    Args:
      variables: nested mappings, or any other pytree, whose arrays are parameters then; keys that are no strings are
        spelled as `str` does. What is no array in a class of its own (a number, a function) is left out.

    >>> import numpy as np
    >>> flat({"params": {"dense": {"bias": 0.5}}}), flat([{"bias": np.zeros(2)}]).keys()
    ({('params', 'dense', 'bias'): 0.5}, dict_keys([('params', '0', 'bias')]))
    """
    found: dict[Path, Any] = {}
    _collect(variables if isinstance(variables, Mapping) else {"params": variables}, (), found)
    return found


def no_variables(found: object) -> VariablesError:
    """The error for what is no variables.

    Args:
      found: what a user gave for variables.

    >>> print(no_variables(3))
    variables must be a dict of collections, {'params': ...}, as graph.init makes it; found int: 3.
    """
    hint = ""
    if isinstance(found, nnx.Module):
        hint = " nas.from_nnx(model, x)[1] gives those of an nnx model: give them in its place."
    elif hasattr(found, "graph") and hasattr(found, "variables"):
        hint = " It unpacks to a graph and its variables: graph, variables = ..., or put a star before it in the call."
    return VariablesError(
        "variables must be a dict of collections, {'params': ...}, as graph.init makes it; found "
        f"{type(found).__name__}: {' '.join(shown(found).split())}.{hint}"
    )


def _collect(node: Mapping[Hashable, PyTree], path: Path, found: dict[Path, Any]) -> None:
    """Add the arrays below a node to those that were found."""
    for key, child in node.items():
        where = (*path, str(key))
        if is_array(child):
            found[where] = child
        elif type(child) is dict:
            _collect(child, where, found)
        elif isinstance(below := _opened(child), Mapping):
            _collect(below, where, found)
        else:
            found[where] = below


def _opened(node: PyTree) -> PyTree:
    """A node as a mapping of its children that are no constants, or, of a leaf, its value."""
    if isinstance(node, nnx.Variable):
        return node.get_value()
    if isinstance(node, Mapping) or (children := _children(node)) is None:
        return node
    return {key: child for key, child in children.items() if not _is_constant(node, child)}


def is_array(value: object) -> TypeGuard[Array | Shape]:
    """Whether a value is an array or the shape of one, and nothing else besides.

    Every verb asks this of every variable several times, and to ask a value whether it is an ``nnx.Variable`` or a
    mapping takes ten times as long as to look its type up. What is traced may be an ``nnx.Variable``.

    >>> is_array(np.zeros(2)), is_array({}), is_array(nnx.Param(np.zeros(2)))
    (True, False, False)
    """
    kind = type(value)
    if kind not in _ARE_ARRAYS:
        arrays = issubclass(kind, np.ndarray | jax.Array | jax.ShapeDtypeStruct)
        _ARE_ARRAYS[kind] = arrays and not issubclass(kind, jax.core.Tracer)
    return _ARE_ARRAYS[kind]


#: Of types that `is_array` has met, the answer.
_ARE_ARRAYS: dict[type, bool] = {}


def flat_branch(tree: PyTree) -> dict[Path, Any]:
    """All arrays of a branch of the variables, such as the tree that an optimizer is given, by the path below it.

    >>> import numpy as np
    >>> flat_branch([{"bias": np.zeros(2)}]).keys()
    dict_keys([('0', 'bias')])
    """
    return {path[1:]: array for path, array in flat({"": tree} if isinstance(tree, Mapping) else tree).items()}


def flat_mappings(variables: Mapping[str, PyTree]) -> dict[Path, PyTree]:
    """What nested mappings hold, by path: arrays, or trees of them, such as what a model has sown."""
    return {tuple(map(str, path)): value for path, value in flatten_dict(_mappings(variables)).items()}


def plain(variables: PyTree) -> PyTree:
    """The variables as nested mappings, where they are another pytree; constants in it are left out."""
    return variables if variables is None or _is_plain(variables) else nested(flat(variables))


def _is_plain(node: PyTree, below: bool = False) -> bool:
    if is_array(node):
        return below
    if type(node) is dict or isinstance(node, Mapping):
        return all(_is_plain(child, True) for child in node.values())
    return below and (isinstance(node, nnx.Variable) or _children(node) is None)


def _mappings(node: PyTree) -> PyTree:
    if isinstance(node, nnx.Variable):
        return node.get_value()
    return {key: _mappings(child) for key, child in node.items()} if isinstance(node, Mapping) else node


def _as_dicts(node: PyTree) -> PyTree:
    if isinstance(node, nnx.Variable):
        return node.get_value()
    if isinstance(node, Mapping):
        return {key: _as_dicts(child) for key, child in node.items()}
    if (children := _children(node)) is None:
        return node
    return {key: _as_dicts(child) for key, child in children.items() if not _is_constant(node, child)}


def _children(node: PyTree) -> dict[str, PyTree] | None:
    """The children of a node of a pytree by name; None: it is a leaf, or a box around one."""
    if isinstance(node, core.meta.AxisMetadata):
        return None
    found = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda value: value is not node)[0]
    if len(found) == 1 and not found[0][0]:
        return None
    return {key_text(path[0]): child for path, child in found}


def _is_constant(node: PyTree, child: PyTree) -> bool:
    """Whether a child is no variable. What is no array in a tuple or list is a mistake, and no constant."""
    if isinstance(node, tuple | list) or isinstance(child, Mapping | nnx.Variable):
        return False
    return not hasattr(child, "dtype") and _children(child) is None


def nested(arrays: Mapping[Path, ValueT]) -> dict[str, Any]:
    """The inverse of `flat`.

    >>> nested({("params", "dense", "bias"): 0.5})
    {'params': {'dense': {'bias': 0.5}}}
    """
    tree: dict[str, Any] = unflatten_dict(dict(arrays))
    return tree


def as_given(variables: PyTree, given: PyTree, top: bool = True) -> PyTree:
    """The variables in mappings, or other pytrees, of the kinds that the user gave, from top to bottom.

    So they have the structure that the states of optimizers made for them have. What is new is held as its neighbours
    are. Keys keep their type and order, and what was an ``nnx.Variable`` is one again.

    Args:
      variables: nested mappings.
      given: what the user gave, before the change. A pytree of another kind has no place for variables that are new:
        the mappings are returned then.
      top: whether these are all variables, so that a pytree of another kind is their collection "params".

    >>> from collections import OrderedDict
    >>> made = as_given({"params": {"a": 1, "new": {"b": 2}}}, OrderedDict(params={"a": 0}))
    >>> type(made).__name__, dict(made)
    ('OrderedDict', {'params': {'a': 1, 'new': {'b': 2}}})
    """
    if is_array(given) and is_array(variables):
        return variables
    if type(given) is type(variables) is dict and [*given] == [*variables]:
        return {key: as_given(variables[key], child, False) for key, child in given.items()}
    if isinstance(given, nnx.Variable) and not isinstance(variables, nnx.Variable):
        return given.replace(variables)
    if isinstance(variables, Mapping) and not isinstance(given, Mapping):
        own = variables.get("params") if top and set(variables) == {"params"} else None if top else variables
        made = None if own is None else _restored(own, given)
        return variables if made is None else made
    if not isinstance(variables, Mapping):
        return variables
    keys = {str(key): key for key in given}
    left = {str(key): child for key, child in variables.items()}
    names = [*(name for name in keys if name in left), *(name for name in left if name not in keys)]
    held = given.raw_mapping if isinstance(given, nnx.State) else given  # a State wraps what it is asked for
    beside = _of_kind({}, given)
    children = {n: as_given(left[n], held[keys[n]] if n in keys else beside, False) for n in names}
    return _of_kind({keys.get(name, name): child for name, child in children.items()}, given)


def _restored(variables: Mapping[str, PyTree], given: PyTree) -> PyTree | None:
    """A pytree like ``given`` with these variables, and its constants; None: it has other children."""
    children = _children(given)
    if children is None:
        return None
    held = {name: child for name, child in children.items() if not _is_constant(given, child)}
    held = {name: child for name, child in held.items() if flat_mappings({"": _as_dicts(child)})}
    if held.keys() != variables.keys():
        return None
    made = {name: _restored_child(variables[name], child) for name, child in held.items()}
    if any(value is None for value in made.values()):
        return None
    treedef = jax.tree.structure(given, is_leaf=lambda value: value is not given)
    return jax.tree.unflatten(treedef, [made.get(name, child) for name, child in children.items()])


def _restored_child(variables: PyTree, given: PyTree) -> PyTree | None:
    if isinstance(given, Mapping | nnx.Variable) or not isinstance(variables, Mapping):
        return as_given(variables, given, False)
    return _restored(variables, given)


def _of_kind(items: dict[Hashable, PyTree], given: Mapping[Hashable, PyTree]) -> Mapping[Hashable, PyTree]:
    """A mapping of the same kind that holds these items; a dict where such a mapping cannot be made."""
    try:
        made: Mapping[Hashable, PyTree] = type(given)(items)  # type: ignore[call-arg]  # most mappings take items
        return made
    except TypeError:
        if not isinstance(given, MutableMapping):
            return items
    emptied = copy.copy(given)  # a defaultdict: with the same default
    emptied.clear()
    emptied.update(items)
    return emptied
