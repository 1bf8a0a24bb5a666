"""Third-party models: `nox -s zoo`, or `pytest -m zoo tests/zoo` where the extra `zoo` is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from exercise import exercise
from models import ZOO

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore"),  # these packages were written for older versions of JAX and Flax
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the extra `zoo` is not installed"),
]


@pytest.mark.parametrize("name", ZOO)
def test_a_model_of_the_zoo(name):
    try:
        row = exercise(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"the extra `zoo`, or tests/zoo/no_deps.txt, is not installed: {error}")
    assert not row.problems, row.problems
    assert row.exact
