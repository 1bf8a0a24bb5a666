"""Tests run on the CPU and are the same every time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax

from hypothesis import settings

for _name in ("default", "ci"):
    settings.register_profile(_name, derandomize=True, deadline=None)
settings.load_profile("default")
