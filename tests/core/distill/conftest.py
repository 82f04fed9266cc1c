"""Two processes joined by gloo, started once for all tests of distillation; this folder is on the path of its tests."""

from __future__ import annotations

import socket
from pathlib import Path

import distill_gloo
import pytest
from torch import multiprocessing


@pytest.fixture(scope="session")
def of_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes computed; DDP raises in the second step where a parameter got no gradient."""
    at = tmp_path_factory.mktemp("workers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(distill_gloo.main, (port, str(at)), nprocs=distill_gloo.WORLD_SIZE)
    return at
