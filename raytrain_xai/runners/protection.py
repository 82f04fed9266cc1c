"""Who may talk to Ray, and from where: settings that have to be in place before Ray is imported and started.

Whoever reaches a port of Ray and knows its token runs code. So every cluster that this package starts has a token of
its own and listens on this machine alone, and every one that it joins is joined with its token.
"""

from __future__ import annotations

import importlib
import os
import secrets
import socket
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from raytrain_xai.errors import ConfigError

_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_TOKEN_SOURCES = (_TOKEN, "RAY_AUTH_TOKEN_PATH")
_LOOPBACK, _CARD_S = ("127.0.0.1", "localhost", "::1"), 5.0
_UNPICKLING = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"


def import_ray(address: str) -> None:
    """Import Ray with the settings by which it starts a cluster (``local``) or joins the one at ``address``.

    Where Ray was imported before, the mode of authentication and the interface stay as they were then.

    Raises:
        ConfigError: the environment lets Ray run code that is hidden in Parquet files.
    """
    if os.environ.get(_UNPICKLING, "0") == "1":  # as Ray reads it (CVE-2026-41486)
        raise ConfigError(f"{_UNPICKLING}=1 lets Parquet files run code when they are read; unset it")
    if address == "local":
        _protect_local()
    else:
        _follow_cluster()
    with on_loopback() if address == "local" or _listens_on_loopback_alone(address) else nullcontext():
        importlib.import_module("ray")


def named_server(address: str) -> tuple[str, int] | None:
    """Host and port in an address of a cluster; None for ``local`` and ``auto``, which name no server."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else None


@contextmanager
def on_loopback() -> Generator[None]:
    """The environment in which Ray, and what it starts, listens on this machine alone.

    Ray takes the address of the network card for that of a node, unless it thinks that there are no clusters, as it
    does on macOS and Windows; then it takes 127.0.0.1, and its servers listen there. Read at import.
    """
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # despite its name, Ray asks it everywhere
    if any(name == "lo" for _, name in socket.if_nameindex()):
        settings["GLOO_SOCKET_IFNAME"] = "lo"  # gradients between the workers
    with _environment(settings):
        yield


@contextmanager
def _environment(settings: Mapping[str, str]) -> Generator[None]:
    """Variables that the user has not set, for the time of the block: a `ray start` of the caller must not see them."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _listens_on_loopback_alone(address: str) -> bool:
    """Whether a cluster is one that listens on this machine alone, which has to be joined from loopback too.

    Ray replaces 127.0.0.1 by the address of the network card, and would knock there for ever.
    """
    server = named_server(address)
    if server is None or server[0] not in _LOOPBACK:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        try:
            card.connect(("192.0.2.1", 9))  # sends nothing: it chooses the card, as Ray does
            socket.create_connection((card.getsockname()[0], server[1]), timeout=_CARD_S).close()
        except OSError:
            return True
    return False


def _protect_local() -> None:
    """Token authentication for a cluster of this process only: a fresh token, in the environment and nowhere else.

    A mode or token that the user set is respected. Left alone, Ray would write a token into the home directory.

    Ray reads the mode when it is imported and the token once; so both stay for the life of this process, and where
    the caller imported Ray already, the mode is left to ``ray.init``, which turns authentication on by itself.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault(_MODE, "token")
    if os.environ.get(_MODE, "token") == "token" and not any(name in os.environ for name in _TOKEN_SOURCES):
        os.environ[_TOKEN] = secrets.token_hex(32)


def _follow_cluster() -> None:
    """Joining a cluster never switches token authentication on by itself; do so when there is a token."""
    has_token = any(name in os.environ for name in _TOKEN_SOURCES) or (Path.home() / ".ray" / "auth_token").is_file()
    os.environ.setdefault(_MODE, "token" if has_token else "disabled")
