"""Roles of API keys, and which of them an address needs."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl

Role = Literal["predict", "explain", "edit"]
ROLES: tuple[Role, ...] = ("predict", "explain", "edit")
"""Lowest first; each may do what those before it may."""

_MODEL = r"/v1/models/[^/:]+"
_V2_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_RULES: tuple[tuple[str, re.Pattern[str], Role | None], ...] = (
    # The page asks for a key itself, and probes of Kubernetes carry none.
    ("GET", re.compile(r"/|/page/.*|/favicon\.ico|/healthz|/readyz|/openapi\.json|/v2/health/(live|ready)"), None),
    ("GET", re.compile(rf"/v1/models|{_MODEL}(/samples/[^/]+)?|/v2/?|{_V2_MODEL}(/ready)?"), "predict"),
    ("POST", re.compile(rf"{_MODEL}:predict|{_V2_MODEL}/infer"), "predict"),
    # Numbers of all clients together: as much as the drift of a model tells. Not open to loopback, since behind a
    # proxy on the same machine every client comes from there.
    ("GET", re.compile(rf"/metrics|/v1/maps/.+|{_MODEL}/(concepts|drift|images)(/.+)?"), "explain"),
    ("POST", re.compile(rf"{_MODEL}:(explain|trace|intervene|segment|search|batch|flag)"), "explain"),
    ("PATCH", re.compile(rf"{_MODEL}/concepts/[^/]+"), "edit"),
)
_BATCH = re.compile(rf"{_MODEL}:batch")


def needed_role(method: str, path: str, query: str = "") -> Role | None:
    """Lowest role that may use an address; None: open to everybody.

    An address that is not known here needs the highest role, so that a forgotten one is closed.

    Args:
        method: of HTTP, upper case.
        path: decoded, below the prefix of the service.
        query: as sent, without ``?``; a batch of predictions needs no more than a prediction.
    """
    if method == "POST" and _BATCH.fullmatch(path) and _only_predicts(query):
        return "predict"
    for known, pattern, role in _RULES:
        if known == ("GET" if method == "HEAD" else method) and pattern.fullmatch(path):
            return role
    return ROLES[-1]


def allows(role: Role, needed: Role) -> bool:
    """Whether ``role`` may do what needs ``needed``."""
    return ROLES.index(role) >= ROLES.index(needed)


def _only_predicts(query: str) -> bool:
    operations = {value for name, value in parse_qsl(query, keep_blank_values=True) if name == "operation"}
    return operations == {"predict"}
