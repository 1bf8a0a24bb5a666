"""Where in a network an operation is computed: name scopes in its trace, which a profile shows as well.

The name of a scope is the whole path of a vertex or module, so that scopes that others put in between (Flax, einsum,
a user) do not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import flax.linen as nn
import jax
from flax.core import Scope, meta
from jax.extend.core import JaxprEqn

from naivenas_jax.paths import path_text

T = TypeVar("T")
_MARK = "~"


def computing(*paths: str) -> contextlib.ExitStack:
    """A context in which everything that is traced is marked as computed in some vertices or modules.

    Args:
      *paths: their paths; an empty path stands for the whole network and leaves no mark.
    """
    stack = contextlib.ExitStack()
    for path in filter(None, paths):
        stack.enter_context(jax.named_scope(_MARK + path))
    return stack


def computing_in_linen() -> contextlib.AbstractContextManager[None]:
    """A context in which whatever a linen module traces is marked as computed in it, for all its methods.

    Modules take parameters that fit as they are.
    """

    def intercept(
        call: Callable[..., T],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: nn.module.InterceptorContext,
    ) -> T:
        with computing(path_of(context.module)):
            return taking_what_fits(call, args, kwargs, context)

    return nn.intercept_methods(intercept)


def taking_what_fits(
    call: Callable[..., T],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    context: nn.module.InterceptorContext,
) -> T:
    """An interceptor of linen with which modules take parameters that fit as they are."""
    if context.module.scope is not None:
        _take_what_fits(context.module.scope)
    return call(*args, **kwargs)


def _take_what_fits(scope: Scope) -> None:
    """Let a scope return a parameter that has the shape which its initialiser is asked for.

    Flax runs the initialiser of each once more, on shapes, to see that it fits, which takes half of the time of a
    trace. It still does where the shape is none of the arguments, or another one.
    """

    def param(name: str, init: Callable[..., object], *args: object, unbox: bool = True, **kwargs: object) -> object:
        held = meta.unbox(scope.get_variable("params", name)) if args else None
        if not isinstance(held, jax.Array) or args[0] not in (held.shape, [*held.shape]):
            return check(name, init, *args, unbox=unbox, **kwargs)
        scope.reserve(name, "params")
        return held if unbox else scope.get_variable("params", name)

    if "param" not in vars(scope):
        check, vars(scope)["param"] = scope.param, param


def path_of(module: nn.Module) -> str:
    """The path of a linen module; empty for the root, and for a module without variables that is called as a function.

    Args:
      module: the module, while it computes.
    """
    return "" if module.scope is None else path_text(module.path)


def computed_in(eqn: JaxprEqn) -> Iterable[str]:
    """The paths of the vertices and modules whose name scope encloses an equation, outermost first.

    Args:
      eqn: the equation; scopes that enclose the whole jaxpr it lies in are not among its own.

    Returns:
      The paths; a path that is a prefix of the next one is left out.
    """
    names = (scope.name for scope in eqn.source_info.name_stack.stack)
    paths = [name.removeprefix(_MARK) for name in names if name.startswith(_MARK)]
    return [a for a, b in zip(paths, [*paths[1:], ""], strict=False) if not f"{b}/".startswith(f"{a}/")]
