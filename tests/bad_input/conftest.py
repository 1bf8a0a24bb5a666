"""Arguments are wrong on purpose here."""

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True)
def unchecked():
    """Annotations are not checked."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
