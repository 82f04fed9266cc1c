"""Fixtures: what is shipped for Kubernetes."""

from __future__ import annotations

import pytest
from shipped_values import SHIPPED, Shipped, render


@pytest.fixture(scope="session", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    """Each of them in turn."""
    return render(request.param)


@pytest.fixture(scope="session")
def base() -> Shipped:
    return render("base")
