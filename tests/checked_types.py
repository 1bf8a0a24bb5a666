"""How annotations are checked while tests run: by beartype, shapes by jaxtyping. See `addopts` in pyproject.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

_float = float | int | np.floating | np.integer
# An int is a float, as for mypy, and numbers of numpy are numbers.
_overrides = FrozenDict({int: int | np.integer, float: _float, complex: complex | _float})
_configured = beartype(conf=BeartypeConf(hint_overrides=_overrides))


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises where an argument or the result is not what the annotation says."""
    # jaxtyping checks methods one by one, and beartype cannot tell of which class one is
    function.__annotations__ = {
        name: Any if hint in (Self, "Self") else hint for name, hint in function.__annotations__.items()
    }
    return _configured(function)
