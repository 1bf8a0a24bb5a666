"""Change the shape of a trained JAX network and keep what it knows.

``import naivenas_jax as nas``. `naivenas_jax.contents` lists the public names, and all are there as soon as one of them
is asked for. Only graphs and plans are imported at once, with what they cannot be without: a pickle makes them in a
process that has asked for nothing yet.
"""

import sys as _sys
import typing as _typing
from importlib import import_module as _import_module

from naivenas_jax.graph.vertices import arithmetic as _arithmetic  # noqa: F401  gives vertices their operators
from naivenas_jax.layers.flax_layers import registered as _registered  # noqa: F401  registers the layers of linen and nnx
from naivenas_jax.transfer import co_shaped as _co_shaped  # noqa: F401  gives plans their `apply`

if _typing.TYPE_CHECKING:
    from naivenas_jax.contents import *  # noqa: F403  its `__all__`
    from naivenas_jax.contents import __all__ as __all__, __version__ as __version__
else:

    def __getattr__(name: str) -> object:
        contents = _import_module("naivenas_jax.contents")
        public = {each: getattr(contents, each) for each in ("__all__", "__version__", *contents.__all__)}
        globals().update(public)
        if name not in public:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=_sys.modules[__name__])
        return public[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *_import_module("naivenas_jax.contents").__all__})
