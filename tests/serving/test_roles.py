"""Which role an address needs."""

from __future__ import annotations

import pytest

from serve.security.roles import needed_role

M = "/v1/models/birds"


@pytest.mark.parametrize(
    ("method", "target", "role"),
    [
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("GET", "/page/main.js", None),
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/openapi.json", None),
        ("GET", "/v2/health/live", None),
        ("GET", "/v1/models", "predict"),
        ("GET", f"{M}", "predict"),
        ("GET", f"{M}@2", "predict"),
        ("GET", f"{M}/samples/3", "predict"),
        ("POST", f"{M}:predict", "predict"),
        ("POST", f"{M}@2:predict", "predict"),
        ("POST", "/v2/models/birds/versions/2/infer", "predict"),
        ("POST", f"{M}:batch?operation=predict", "predict"),
        ("POST", f"{M}:batch", "explain"),
        ("POST", f"{M}:batch?operation=trace", "explain"),
        ("POST", f"{M}:batch?operation=predict&operation=trace", "explain"),
        ("POST", f"{M}:batch?operation=trace&operation=predict", "explain"),
        ("POST", f"{M}:batch?x=operation=predict", "explain"),
        ("POST", f"{M}:explain", "explain"),
        ("POST", f"{M}:trace", "explain"),
        ("POST", f"{M}:intervene", "explain"),
        ("POST", f"{M}:flag", "explain"),
        ("POST", f"{M}:segment", "explain"),
        ("POST", f"{M}:search", "explain"),
        ("GET", f"{M}/concepts", "explain"),
        ("GET", f"{M}/concepts/3", "explain"),
        ("GET", f"{M}/concepts/3/examples/0.jpg", "explain"),
        ("GET", f"{M}/drift", "explain"),
        ("GET", f"{M}/images/3.jpg", "explain"),
        ("GET", "/v1/maps/0123.png", "explain"),
        ("GET", "/metrics", "explain"),
        ("PATCH", f"{M}/concepts/3", "edit"),
        # what is not known is closed
        ("POST", "/", "edit"),
        ("POST", "/healthz", "edit"),
        ("DELETE", f"{M}/concepts/3", "edit"),
        ("PATCH", f"{M}", "edit"),
        ("GET", "/page", "edit"),
        ("GET", "/docs", "edit"),
        ("GET", "//healthz", "edit"),
        ("GET", "/healthz/", "edit"),
        ("GET", "/healthz\n", "edit"),
        ("POST", f"{M}:predict/", "edit"),
        ("POST", f"{M}:predict:trace", "edit"),
        ("POST", f"{M}:PREDICT", "edit"),
    ],
)
def test_role_of_an_address(method: str, target: str, role: str | None) -> None:
    path, _, query = target.partition("?")
    assert needed_role(method, path, query) == role
