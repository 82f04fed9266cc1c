"""What a namespace needs before Ray: accounts, rights, priorities, disruption budgets."""

from __future__ import annotations

from typing import Any

from raytrain_xai.cluster.documents import COMPONENT, PART_OF, Document, document
from raytrain_xai.cluster_config import ClusterValues, ServeValues

_RBAC = "rbac.authorization.k8s.io/v1"


def platform(values: ClusterValues) -> list[Document]:
    """All of it, in an order in which it can be applied."""
    found = [_namespace(values), *_accounts(values), *_priorities(values)]
    if values.serve is not None and values.serve.min_replicas > 1:
        found.append(_budget(values, values.serve))
    return found


def _namespace(values: ClusterValues) -> Document:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return document(values, "v1", "Namespace", values.namespace, labels=levels, namespaced=False)


def _accounts(values: ClusterValues) -> list[Document]:
    """One account for workers, without any right, and one for heads, whose autoscaler resizes its cluster."""
    head = f"{values.name}-head"
    annotations = values.service_account.annotations
    # what KubeRay itself would grant
    rules: list[dict[str, Any]] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": head}
    subject = {"kind": "ServiceAccount", "name": head, "namespace": values.namespace}
    return [
        *(
            document(values, "v1", "ServiceAccount", name, annotations=annotations, automountServiceAccountToken=False)
            for name in (values.name, head)
        ),
        document(values, _RBAC, "Role", head, rules=rules),
        document(values, _RBAC, "RoleBinding", head, roleRef=role, subjects=[subject]),
    ]


def _priorities(values: ClusterValues) -> list[Document]:
    """Requests of people go before jobs; jobs wait for their place and push nobody out."""
    api = "scheduling.k8s.io/v1"
    levels: dict[str, dict[str, Any]] = {
        "serve": {"value": 100000, "description": "Answers requests; may take the place of jobs."},
        "batch": {"value": 1000, "preemptionPolicy": "Never", "description": "Jobs and interactive clusters."},
    }
    return [
        document(values, api, "PriorityClass", f"{values.name}-{name}", namespaced=False, globalDefault=False, **fields)
        for name, fields in levels.items()
    ]


def _budget(values: ClusterValues, serve: ServeValues) -> Document:
    # pods of a custom resource without a scale: only a whole number of minAvailable is understood
    labels = {PART_OF: values.name, COMPONENT: "serve"}
    spec = {"minAvailable": serve.min_replicas - 1, "selector": {"matchLabels": labels}}
    return document(values, "policy/v1", "PodDisruptionBudget", f"{values.name}-serve", spec=spec)
