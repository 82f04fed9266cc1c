"""Addresses at which no cluster answers."""

from __future__ import annotations

import socket

import pytest

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import RunError
from raytrain_xai.runners.cluster import connected

CONFIG = RunConfig.model_validate({"name": "run", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_nothing_listens(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line within seconds, where Ray would go on trying."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{free.getsockname()[1]}")  # bound, so nobody else takes it; not listening
        with (
            pytest.raises(RunError, match=f"no Ray cluster at {address}: .*; check host, port"),
            connected(CONFIG, address, debug=False),
        ):
            pass
