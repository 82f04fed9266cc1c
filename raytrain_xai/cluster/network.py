"""Who may talk to whom: nothing, but for the rules here; and the way in from outside, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raytrain_xai.cluster.documents import COMPONENT, PART_OF, Document, document, present
from raytrain_xai.cluster.pods import METRICS_PORT
from raytrain_xai.cluster_config import ClusterValues

_API = "networking.k8s.io/v1"
_NAMESPACE = "kubernetes.io/metadata.name"
_HEADS = {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "redis-cleanup"]}]}
_SERVE_PORT, _DASHBOARD_PORT = 8000, 8265

Rule = dict[str, Any]


def network(values: ClusterValues) -> list[Document]:
    """Policies that add up: the first forbids everything, each other one allows one thing."""
    ours = {"matchLabels": {PART_OF: values.name}}
    heads = ours | _HEADS
    settings, storage = values.network, values.storage
    outside = [{"ipBlock": {"cidr": cidr}} for cidr in storage.cidrs]
    found = [
        _policy(values, "deny", ours, ingress=[], egress=[]),
        _policy(values, "inside", ours, ingress=[_from([_pods(ours)])], egress=[{"to": [_pods(ours)]}]),
        _policy(values, "dns", ours, egress=[_to([_in(settings.dns_namespace)], (53,), ("UDP", "TCP"))]),
        _policy(values, "storage", ours, egress=[_to(outside, storage.ports)]),
        _policy(values, "api-server", heads, egress=[_to(None, settings.api_server_ports)]),
        _policy(values, "operator", ours, ingress=[_from([_operator(values)], (_DASHBOARD_PORT, _SERVE_PORT))]),
    ]
    if values.monitoring:
        scraping = _from([_in(settings.monitoring_namespace)], (METRICS_PORT,))
        found.append(_policy(values, "metrics", ours, ingress=[scraping]))
    if values.redis is not None:
        port = int(values.redis.address.rpartition(":")[2])
        server = [_in(values.redis.namespace or values.namespace)]
        found.append(_policy(values, "redis", heads, egress=[_to(server, (port,))]))
    if values.ingress.host is not None:
        serving = {"matchLabels": {PART_OF: values.name, COMPONENT: "serve"}}
        callers = [_in(values.ingress.namespace)]
        found.append(_policy(values, "requests", serving, ingress=[_from(callers, (_SERVE_PORT,))]))
        found.append(_ingress(values))
    return found


def _policy(values: ClusterValues, name: str, pods: Rule, **rules: list[Rule]) -> Document:
    types = [kind.capitalize() for kind in rules]
    allowed = {kind: listed for kind, listed in rules.items() if listed}
    spec = {"podSelector": pods, "policyTypes": types} | allowed
    return document(values, _API, "NetworkPolicy", f"{values.name}-{name}", spec=spec)


def _from(peers: list[Rule], ports: Sequence[int] = ()) -> Rule:
    return present({"from": peers, "ports": _ports(ports) or None})


def _to(peers: list[Rule] | None, ports: Sequence[int], protocols: Sequence[str] = ("TCP",)) -> Rule:
    return present({"to": peers, "ports": _ports(ports, protocols)})


def _ports(ports: Sequence[int], protocols: Sequence[str] = ("TCP",)) -> list[Rule]:
    return [{"port": port, "protocol": protocol} for port in ports for protocol in protocols]


def _pods(selector: Rule) -> Rule:
    return {"podSelector": selector}


def _in(namespace: str) -> Rule:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE: namespace}}}


def _operator(values: ClusterValues) -> Rule:
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    return _in(values.network.operator_namespace) | {"podSelector": {"matchLabels": labels}}


def _ingress(values: ClusterValues) -> Document:
    """The service under a name, encrypted; the dashboard never."""
    settings = values.ingress
    service = {"service": {"name": f"{values.name}-serve-serve-svc", "port": {"number": _SERVE_PORT}}}
    path = {"path": "/", "pathType": "Prefix", "backend": service}
    spec = {
        "ingressClassName": settings.class_name,
        "tls": [{"hosts": [settings.host], "secretName": settings.tls_secret}],
        "rules": [{"host": settings.host, "http": {"paths": [path]}}],
    }
    limits = {"nginx.ingress.kubernetes.io/proxy-body-size": settings.body_size}
    return document(values, _API, "Ingress", f"{values.name}-serve", annotations=limits, spec=present(spec))
