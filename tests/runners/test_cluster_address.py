"""Addresses at which no cluster answers."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import RunError
from raytrain_xai.run_folder import run_location
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.train import Launch, start_run
from raytrain_xai.storage import exists

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


def test_no_run_folder_is_left_behind(make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The name stays free for the next try."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    config = make_config(workers=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = Launch(f"127.0.0.1:{free.getsockname()[1]}", publish=lambda _: None)
        with pytest.raises(RunError, match="no Ray cluster"):
            start_run(config, launch)
    assert not exists(run_location(config))
