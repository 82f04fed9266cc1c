"""The Jobs API of a Ray cluster: reached with the token it asks for, and every refusal as one line."""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raytrain_xai.errors import ConfigError, RunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MODE = "RAY_AUTH_MODE"
_ANSWER_S = 10.0  # a dashboard under load takes a second
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes these before the address it is given
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_NODES = 10_000  # the most that the dashboard lists at a time


class ConnectionLostError(RunError):
    """The cluster does not answer, now."""


@dataclass(frozen=True)
class JobServer:
    """A cluster that takes jobs.

    Attributes:
        url: of its dashboard, without a slash at the end.
        client: Ray's, with the cluster's token.
        mode: ``token`` or ``disabled``, as the cluster says.
    """

    url: str
    client: JobSubmissionClient
    mode: str


def connect(address: str) -> JobServer:
    """Reach the dashboard at ``address`` and take up its way of authentication.

    The cluster is asked whether it wants a token before Ray is imported, which reads ``RAY_AUTH_MODE`` then; a token is
    sent only to clusters that want one.

    Args:
        address: ``http://HOST:PORT`` of the dashboard (8265 unless set otherwise), ``https://…``, or HOST:PORT.

    Raises:
        ConfigError: no address of a dashboard, or a token that is missing, wrong or switched off here.
        RunError: nothing answers there, or something else than Ray.
    """
    url = _dashboard(address)
    mode = _authentication_mode(url)
    _take_up(mode, url)
    from ray.exceptions import AuthenticationError  # only now: the mode above is read at import
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with calling(url), _address_as_given():
        try:
            return JobServer(url, JobSubmissionClient(url), mode)
        except AuthenticationError as error:
            raise ConfigError(
                f"the cluster at {url} refuses the token of this shell; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to "
                "that of the cluster"
            ) from error


@contextmanager
def calling(url: str) -> Generator[None]:
    """Turn what Ray's client raises into one line.

    Raises:
        ConnectionLostError: the cluster did not answer.
        RunError: it refused; says what it answered.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise RunError(f"the cluster at {url} does not take this token any more; was it started anew?") from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ConnectionLostError(f"the cluster at {url} does not answer: {_brief(error)}") from error
    except RuntimeError as error:  # Ray's client, for every other answer of the server
        raise RunError(f"the cluster at {url} refused: {_brief(error)}") from error


def num_nodes(server: JobServer) -> int:
    """Nodes of the cluster that are alive.

    Raises:
        RunError: the cluster did not answer, or could not tell.
    """
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    with calling(server.url), _address_as_given():
        try:
            return len(list_nodes(server.url, filters=[("state", "=", "ALIVE")], limit=_NODES))
        except RayStateApiException as error:
            raise RunError(f"the cluster at {server.url} cannot list its nodes: {_brief(error)}") from error


def _dashboard(address: str) -> str:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    url = urlsplit(address if scheme else f"http://{address}")
    try:
        has_host = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port that is none
        has_host = False
    if url.scheme not in ("http", "https") or not has_host or address in ("auto", "local"):
        raise ConfigError(
            f"--address {address.rpartition('@')[2]} is not that of a Ray dashboard, which takes jobs; give "
            "http://HOST:8265"
        )
    if url.username is not None or url.password is not None:
        raise ConfigError("--address holds a user name or password, which would be logged; leave it out")
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


def _authentication_mode(url: str) -> str:
    """What the cluster asks of its clients; this one question is answered without a token."""
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=_ANSWER_S) as answer:  # noqa: S310
            mode = json.load(answer)["authentication_mode"]
    except urllib.error.HTTPError as error:
        raise RunError(
            f"{url} answers {error.code} to the question how to authenticate; it is no Ray dashboard, one older than "
            "Ray 2.52, or a proxy in front of it asks for something else"
        ) from error
    except (OSError, HTTPException) as error:
        raise RunError(
            f"no Ray dashboard at {url}: {_brief(error)}; check host, port and that the head is running with its "
            "dashboard"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{url} answers, but not as a Ray dashboard; check the port (8265 unless set)") from error
    if mode not in ("token", "disabled"):
        raise RunError(f"the cluster at {url} asks for authentication by {mode!r}; token and disabled are supported")
    return mode


def _take_up(mode: str, url: str) -> None:
    """Set the mode for Ray in this process, explicitly; left to itself Ray's client would send no token."""
    here = os.environ.get(MODE, mode)
    if mode == "token" and here != mode:
        raise ConfigError(f"the cluster at {url} asks for a token, and {MODE}={here} switches it off; unset {MODE}")
    has_token = any(os.environ.get(name) for name in _TOKENS) or (Path.home() / ".ray" / "auth_token").is_file()
    if mode == "token" and not has_token:
        raise ConfigError(
            f"the cluster at {url} asks for a token and this shell has none; set RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH to a file that holds it"
        )
    os.environ[MODE] = mode


@contextmanager
def _address_as_given() -> Generator[None]:
    """Inside a cluster's shell or notebook these variables would send a job elsewhere than ``--address`` says."""
    kept = {name: os.environ.pop(name) for name in _OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _brief(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split())[:300]
