"""Where in a network something is computed: names in its trace, which a profile shows as well.

The name of a scope is the whole path of a vertex or module, so that scopes of others in between (those of Flax, of
einsum, of a user) do not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax

_MARK = "~"


def computing(*paths: str) -> contextlib.ExitStack:
    """Within, everything that is traced is computed in these vertices or modules. An empty path is the whole."""
    stack = contextlib.ExitStack()
    for path in filter(None, paths):
        stack.enter_context(jax.named_scope(_MARK + path))
    return stack


def computing_in_linen() -> Any:
    """Within, what linen modules trace is computed in them, whatever method of theirs is called."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        with computing(path_of(context.module)):
            return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def path_of(module: nn.Module) -> str:
    """Nothing for the root, and for a module without variables that is called like a function."""
    return "" if module.scope is None else "/".join(module.path)


def computed_in(eqn: Any) -> Iterable[str]:
    """The vertices and modules that an equation is computed in, as far as its own jaxpr tells.

    One that the next lies under goes without saying.
    """
    names = (scope.name for scope in eqn.source_info.name_stack.stack)
    paths = [name.removeprefix(_MARK) for name in names if name.startswith(_MARK)]
    return [a for a, b in zip(paths, [*paths[1:], ""], strict=False) if not f"{b}/".startswith(f"{a}/")]
