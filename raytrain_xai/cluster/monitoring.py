"""What Prometheus and Grafana find."""

from __future__ import annotations

from raytrain_xai.cluster.documents import PART_OF, Document, document
from raytrain_xai.cluster_config import ClusterValues


def monitoring(values: ClusterValues, dashboard: str) -> list[Document]:
    """A PodMonitor for Ray's metrics port, and the dashboard in a ConfigMap that Grafana's sidecar picks up.

    Args:
        dashboard: JSON text.
    """
    if not values.monitoring:
        return []
    labels = {"ray_io_cluster": "ray_io_cluster", "ray_io_node_type": "ray_io_node_type"}
    relabelings = [
        {"action": "replace", "sourceLabels": [f"__meta_kubernetes_pod_label_{label}"], "targetLabel": name}
        for label, name in labels.items()
    ]
    endpoint = {"port": "metrics", "path": "/metrics", "interval": "30s", "relabelings": relabelings}
    spec = {
        "selector": {"matchLabels": {PART_OF: values.name}},
        "namespaceSelector": {"matchNames": [values.namespace]},
        "podMetricsEndpoints": [endpoint],
    }
    name = f"{values.name}-dashboard"
    return [
        document(values, "monitoring.coreos.com/v1", "PodMonitor", values.name, spec=spec),
        document(
            values, "v1", "ConfigMap", name, labels={"grafana_dashboard": "1"}, data={f"{values.name}.json": dashboard}
        ),
    ]
