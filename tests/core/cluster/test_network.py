"""Who may talk to whom, read back from the policies."""

from __future__ import annotations

from typing import Any

import pytest
from manifest_checks import clusters_of, templates_of
from shipped_values import Shipped, render

OURS = {"matchLabels": {"app.kubernetes.io/part-of": "raytrain-xai"}}


def policies(shipped: Shipped) -> dict[str, dict[str, Any]]:
    return {p["metadata"]["name"].removeprefix("raytrain-xai-"): p["spec"] for p in shipped.of_kind("NetworkPolicy")}


def ports_from(shipped: Shipped, namespace: str) -> set[int]:
    """Ports that pods of another namespace reach."""
    found: set[int] = set()
    for spec in policies(shipped).values():
        for rule in spec.get("ingress", []):
            for peer in rule["from"]:
                if peer.get("namespaceSelector") == {"matchLabels": {"kubernetes.io/metadata.name": namespace}}:
                    found |= {port["port"] for port in rule["ports"]}
    return found


def test_everything_is_forbidden_first(shipped: Shipped) -> None:
    assert policies(shipped)["deny"] == {"podSelector": OURS, "policyTypes": ["Ingress", "Egress"]}
    for manifest in shipped.found:
        for template in (t for cluster in clusters_of(manifest) for t in templates_of(cluster)):
            assert OURS["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_ports_of_ray_are_open_inside_and_to_its_operator_only(shipped: Shipped) -> None:
    for name, spec in policies(shipped).items():
        for rule in spec.get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            if name == "inside":
                assert rule == {"from": [{"podSelector": OURS}]}
            elif name == "operator":
                (peer,) = rule["from"]
                assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
                assert ports == {8265, 8000}
            else:
                assert ports
                assert not ports & {8265, 6379, 10001}
    assert ports_from(shipped, "kuberay-system") == {8265, 8000}


def test_metrics_are_open_to_monitoring_only(base: Shipped) -> None:
    assert ports_from(base, "monitoring") == {8080}
    assert ports_from(render("base", "network.monitoring_namespace=observe"), "monitoring") == set()
    assert "metrics" not in policies(render("dev-kind"))


def test_the_service_is_reached_from_the_ingress_only_if_there_is_one(base: Shipped) -> None:
    assert base.of_kind("Ingress") == []
    assert ports_from(base, "ingress-nginx") == set()
    shipped = render("base", "ingress={host: xai.example.org, tls_secret: certificate, class_name: nginx}")
    assert ports_from(shipped, "ingress-nginx") == {8000}
    assert policies(shipped)["requests"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "serve"
    (ingress,) = shipped.of_kind("Ingress")
    (rule,) = ingress["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "raytrain-xai-serve-serve-svc", "port": {"number": 8000}}
    assert ingress["spec"]["tls"] == [{"hosts": ["xai.example.org"], "secretName": "certificate"}]


def test_ways_out(base: Shipped) -> None:
    found = policies(base)
    assert {name for name, spec in found.items() if "egress" in spec} == {
        "inside",
        "dns",
        "storage",
        "api-server",
        "redis",
    }
    (dns,) = found["dns"]["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    (storage,) = found["storage"]["egress"]
    assert storage["ports"] == [{"port": 443, "protocol": "TCP"}]
    (minio,) = policies(render("dev-kind"))["storage"]["egress"]
    assert minio["ports"] == [{"port": 9000, "protocol": "TCP"}]


@pytest.mark.parametrize("name", ["api-server", "redis"])
def test_heads_alone_reach_what_only_they_need(base: Shipped, name: str) -> None:
    selector = policies(base)[name]["podSelector"]
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["values"]) == ("ray.io/node-type", ["head", "redis-cleanup"])
    assert selector["matchLabels"] == OURS["matchLabels"]
