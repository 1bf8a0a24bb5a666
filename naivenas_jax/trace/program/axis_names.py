"""Names of handles: the path of the module that makes the neurons, as the user spells it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties

#: The prefixes of the axes of inputs and outputs.
ENDS = ("~input:", "~output:")
#: The prefix of the axes of stacked layers.
DEPTH = "~depth"
#: Names of modules that project onto heads.
_PROJECTION = re.compile(r"(^|_)(q|k|v|qkv|kv)($|_)|query|key|value|attn|attention|qkv")


class Made(NamedTuple):
    """A variable that makes neurons.

    Attributes:
      path: the path of the variable.
      dims: for each dimension on which it makes neurons the name of the axis, and the names of the axis's factors.
      last: whether its last dimension is one of them.
    """

    path: Path
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    last: bool = True


def named(ties: Ties, made: Sequence[Made]) -> Ties:
    """The same ties, with readable names for the axes on which variables make neurons.

    If only one variable of a module makes neurons, the axis has the path of the module (``Block_0/Conv_1``), else the
    path of the variable (``Block_0/w1``), also where there is no module. Where a variable makes neurons on several
    dimensions, or on a dimension that is a product, each dimension or factor has a suffix: ``:heads`` and
    ``:features`` for the projections of an attention, else a number. Neurons that no variable makes by reading others
    are named after the first variable that has them.
    """
    free = ties.changeable()
    kept = [m._replace(dims=tuple(dim for dim in m.dims if dim[0] in free)) for m in made]
    modules = Counter(_module(m.path) for m in kept if m.dims)
    names: dict[str, str] = {}
    for m in kept:
        alone = modules[_module(m.path)] == 1 and len(_own(m.path)) > 1
        whole = not alone and m.path[-1] not in ("kernel", "embedding", "weight")
        for axis, name in _names(m, "/".join(_own(m.path) if whole else _module(m.path))):
            names.setdefault(axis, _unused(name, names.values()))
    for m in made:  # fixed axes have names too, by which the reason can be looked up
        if m.dims and m.dims[-1][0] not in free:
            names.setdefault(m.dims[-1][0], _unused("/".join(_module(m.path)), names.values()))
    names |= _depths(ties, names)
    names |= _vocabularies(ties, names)
    return _renamed(ties, {**names, **_of_nobody(ties, names)})


def _depths(ties: Ties, names: Mapping[str, str]) -> dict[str, str]:
    """Names for the axes of stacked layers: what the paths of the stacked variables begin with, and ``:depth``."""
    found = dict[str, str]()
    for axis in [axis for axis in ties.axes if axis.startswith(DEPTH)]:
        rows = {path: [ties.axes[each] for each in leaf.axes if each] for path, leaf in ties.leaves.items()}
        paths = [_own(path) for path, own in rows.items() if ties.axes[axis] in own]
        same = list(itertools.takewhile(lambda keys: len(set(keys)) == 1, zip(*paths, strict=False)))
        block = "/".join(keys[0] for keys in same[: min(map(len, paths)) - (len(paths) == 1)] or [paths[0]])
        found[axis] = _unused(f"{block}:depth", [*names.values(), *found.values()])
    return found


def _vocabularies(ties: Ties, names: Mapping[str, str]) -> dict[str, str]:
    """Names for the axes of tables on which entries are looked up: the module, or the table, and ``:vocabulary``."""
    found = dict[str, str]()
    for path, leaf in ties.leaves.items():
        for axis, role in zip(leaf.axes, leaf.roles, strict=True):
            if axis is None or axis in names or role != "in" or ties.indexed.isdisjoint(ties.axes[axis]):
                continue
            module = _module(path) if path[-1] in ("kernel", "embedding", "weight") else _own(path)
            found.setdefault(axis, _unused(f"{'/'.join(module)}:vocabulary", found.values()))
    return found


def _of_nobody(ties: Ties, names: Mapping[str, str]) -> dict[str, str]:
    """Names for the axes of variables whose neurons are made by no variable that reads others, and by no input.

    Centres of radial functions have such neurons, and so have learned tokens. Dimensions that are not read come first.

    Args:
      ties: the ties.
      names: the axes that have names.
    """
    have = [axis for axis in ties.axes if axis in names or axis.startswith(ENDS)]
    covered = ties.plain([run for axis in have for run in ties.axes[axis]])
    taken, found = set(names.values()), dict[str, str]()
    for role in ("out", "in"):
        for path, leaf in ties.leaves.items():
            own = [axis for axis, found_role in zip(leaf.axes, leaf.roles, strict=True) if found_role == role]
            bare = [axis for axis in own if axis is not None and axis not in names]
            left = [axis for axis in bare if ties.plain(ties.axes[axis]) - ties.fixed.keys() - covered]
            for axis in dict.fromkeys(left):
                suffix = f":{leaf.axes.index(axis)}" if len(set(left)) > 1 else ""
                found[axis] = _unused("/".join(_own(path)) + suffix, taken)
                taken.add(found[axis])
            covered |= ties.plain([run for axis in left for run in ties.axes[axis]])
    return found


def _names(made: Made, base: str) -> Iterator[tuple[str, str]]:
    """Each axis of a variable with its new name; ``base`` is the path in it."""
    several = len(made.dims) > 1
    for number, (axis, factors) in enumerate(made.dims):
        name = base + (_suffix(base if made.last else "", number, len(made.dims)) if several else "")
        yield axis, name
        for i, factor in enumerate(factors):
            yield factor, name + _suffix(base, i, len(factors))


def _suffix(base: str, number: int, count: int) -> str:
    """The suffix of a dimension or factor. A variable that makes heads but no features is given no ``base``.

    Learned queries that keys read are an example.
    """
    if count == 2 and _PROJECTION.search("/".join(base.split("/")[-2:]).lower()):
        return (":heads", ":features")[number]
    return f":{number}"


def _own(path: Path) -> Path:
    """The path without the collection. A path of two keys has none if it is a dictionary's: module, variable."""
    return path[1:] if len(path) > 2 or path[0] == "params" else path


def _module(path: Path) -> Path:
    """The path of the module that a variable belongs to, or of the variable where there is no module."""
    return path[1:-1] or path[:-1] or path


def _unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken."""
    found, number = name, 1
    while found in taken:
        found, number = f"{name}'{number}", number + 1
    return found


def _renamed(ties: Ties, names: Mapping[str, str]) -> Ties:
    """The same ties with new names for some axes, which come first: others name leaves after them."""

    def new(axis: str | None) -> str | None:
        return None if axis is None else names.get(axis, axis)

    return replace(
        ties,
        axes={str(new(axis)): ties.axes[axis] for axis in sorted(ties.axes, key=lambda axis: axis not in names)},
        leaves={path: replace(leaf, axes=tuple(map(new, leaf.axes))) for path, leaf in ties.leaves.items()},
        coupled={str(new(axis)): reason for axis, reason in ties.coupled.items()},
        conditions=tuple(one.renamed({axis: str(new(axis)) for axis in one.axes}) for one in ties.conditions),
    )
