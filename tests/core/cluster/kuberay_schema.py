"""Strict JSON schemas of the custom resources that are used here; what is not listed is refused.

``ray.io/v1``: fields, required ones, enumerations and bounds of KubeRay v1.7.0 (docs/reference/api.md of commit
97509c3a7216cf3440af381646560a1885afb53b and the Go types beside it), written down by hand: the CRD files hold a
megabyte each, nearly all of it pod templates, which are checked as pods. Status and the rules in CEL are left out.
``monitoring.coreos.com/v1``, kustomize: what is used here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
TEXTS: Schema = {"type": "array", "items": TEXT}
TEXT_MAP: Schema = {"type": "object", "additionalProperties": TEXT}
CORE: Schema = {"type": "object"}  # of Kubernetes itself, checked as part of a pod
CORE_LIST: Schema = {"type": "array", "items": CORE}
LABEL = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}


def one_of(*choices: str) -> Schema:
    return {"enum": list(choices)}


def record(fields: dict[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def listed(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items} | bounds


MANAGER = one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
CREDENTIAL = record({"value": TEXT, "valueFrom": CORE})
STORAGE = record({
    "claimName": TEXT, "size": {"type": ["string", "integer"]}, "storageClassName": TEXT, "accessModes": TEXTS,
    "subPath": TEXT, "deletionPolicy": one_of("DeleteWithCluster", "Retain"),
})  # fmt: skip
POLICY_RULES = {"ingressRules": CORE_LIST, "egressRules": CORE_LIST}
NETWORK = record({
    "mode": one_of("DenyAll", "DenyAllIngress", "DenyAllEgress"), "head": record(POLICY_RULES),
    "worker": record(POLICY_RULES), "workerGroups": listed(record({"groupName": TEXT} | POLICY_RULES, "groupName")),
})  # fmt: skip
AUTOSCALER = record({
    "resources": CORE, "image": TEXT, "imagePullPolicy": TEXT, "securityContext": CORE, "idleTimeoutSeconds": WHOLE,
    "upscalingMode": one_of("Default", "Aggressive", "Conservative"), "version": one_of("v1", "v2"), "env": CORE_LIST,
    "envFrom": CORE_LIST, "volumeMounts": CORE_LIST, "command": TEXTS, "args": TEXTS,
})  # fmt: skip
COLLECTOR = record({"image": TEXT, "imagePullPolicy": TEXT, "resources": CORE, "env": CORE_LIST})
INGRESS = record({
    "host": TEXT, "path": TEXT, "pathType": one_of("Exact", "Prefix", "ImplementationSpecific"), "tls": CORE_LIST,
})  # fmt: skip
HEAD = record({
    "template": CORE, "headService": CORE, "enableIngress": FLAG, "ingressOptions": INGRESS, "resources": TEXT_MAP,
    "labels": TEXT_MAP, "rayStartParams": TEXT_MAP, "serviceType": TEXT,
}, "template")  # fmt: skip
WORKERS = record({
    "suspend": FLAG, "groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT,
    "idleTimeoutSeconds": WHOLE, "priority": WHOLE, "resources": TEXT_MAP, "labels": TEXT_MAP,
    "rayStartParams": TEXT_MAP, "template": CORE, "scaleStrategy": record({"workersToDelete": TEXTS}),
    "numOfHosts": WHOLE,
}, "groupName", "minReplicas", "maxReplicas", "template")  # fmt: skip
CLUSTER = record({
    "upgradeStrategy": record({"type": one_of("Recreate", "None")}),
    "authOptions": record({"enableK8sTokenAuth": FLAG, "secretName": TEXT, "mode": one_of("disabled", "token")}),
    "suspend": FLAG, "managedBy": MANAGER, "autoscalerOptions": AUTOSCALER, "headServiceAnnotations": TEXT_MAP,
    "enableInTreeAutoscaling": FLAG,
    "gcsFaultToleranceOptions": record({
        "backend": one_of("redis", "rocksdb"), "redisUsername": CREDENTIAL, "redisPassword": CREDENTIAL,
        "externalStorageNamespace": TEXT, "redisAddress": TEXT, "storage": STORAGE,
    }),
    "historyServerOptions": record({"collectorOptions": COLLECTOR}), "networkPolicy": NETWORK,
    "tlsOptions": record({"enabled": FLAG}), "headGroupSpec": HEAD, "rayVersion": TEXT,
    "workerGroupSpecs": listed(WORKERS),
}, "headGroupSpec")  # fmt: skip
DELETION_POLICY = one_of("DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone")
DELETION = record({
    "onSuccess": record({"policy": DELETION_POLICY}), "onFailure": record({"policy": DELETION_POLICY}),
    "deletionRules": listed(record({
        "policy": DELETION_POLICY,
        "condition": record({
            "jobStatus": one_of("SUCCEEDED", "FAILED"), "jobDeploymentStatus": one_of("Failed"), "ttlSeconds": COUNT,
        }),
    }, "policy", "condition"), minItems=1),
})  # fmt: skip
JOB = record({
    "activeDeadlineSeconds": WHOLE, "backoffLimit": WHOLE, "rayClusterSpec": CLUSTER, "submitterPodTemplate": CORE,
    "metadata": TEXT_MAP, "clusterSelector": TEXT_MAP, "submitterConfig": record({"backoffLimit": WHOLE}),
    "managedBy": MANAGER, "deletionStrategy": DELETION, "entrypoint": TEXT, "runtimeEnvYAML": TEXT, "jobId": TEXT,
    "submissionMode": one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"), "entrypointResources": TEXT,
    "entrypointNumCpus": NUMBER, "entrypointNumGpus": NUMBER, "ttlSecondsAfterFinished": WHOLE,
    "preRunningDeadlineSeconds": {"type": "integer", "minimum": 1}, "shutdownAfterJobFinishes": FLAG, "suspend": FLAG,
})  # fmt: skip
CRON_JOB = record({
    "jobTemplate": JOB, "schedule": TEXT, "timeZone": {"type": "string", "minLength": 1}, "suspend": FLAG,
}, "jobTemplate", "schedule")  # fmt: skip
UPGRADE = record({
    "type": one_of("NewClusterWithIncrementalUpgrade", "NewCluster", "None"),
    "clusterUpgradeOptions": record({
        "maxSurgePercent": WHOLE, "stepSizePercent": WHOLE, "intervalSeconds": WHOLE, "gatewayClassName": TEXT,
    }, "stepSizePercent", "intervalSeconds", "gatewayClassName"),
})  # fmt: skip
SERVICE = record({
    "rayClusterDeletionDelaySeconds": COUNT, "serviceUnhealthySecondThreshold": WHOLE,
    "deploymentUnhealthySecondThreshold": WHOLE, "serveService": CORE, "upgradeStrategy": UPGRADE,
    "managedBy": MANAGER, "serveConfigV2": TEXT, "rayClusterConfig": CLUSTER, "excludeHeadPodFromServeSvc": FLAG,
    "suspend": FLAG,
}, "rayClusterConfig")  # fmt: skip
RELABELING = record({
    "action": one_of("replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"), "sourceLabels": TEXTS,
    "separator": TEXT, "targetLabel": TEXT, "regex": TEXT, "replacement": TEXT,
})  # fmt: skip
POD_MONITOR = record({
    "selector": record({"matchLabels": TEXT_MAP, "matchExpressions": CORE_LIST}),
    "namespaceSelector": record({"any": FLAG, "matchNames": TEXTS}),
    "podMetricsEndpoints": listed(record({
        "port": TEXT, "path": TEXT, "scheme": one_of("http", "https"), "interval": TEXT, "scrapeTimeout": TEXT,
        "honorLabels": FLAG, "relabelings": listed(RELABELING), "metricRelabelings": listed(RELABELING),
    }), minItems=1),
    "jobLabel": TEXT, "podTargetLabels": TEXTS, "sampleLimit": WHOLE,
}, "selector", "podMetricsEndpoints")  # fmt: skip
KUSTOMIZATION = record({
    "apiVersion": one_of("kustomize.config.k8s.io/v1beta1"), "kind": one_of("Kustomization"), "resources": TEXTS,
    "patches": listed(record({
        "patch": TEXT, "target": record({"group": TEXT, "version": TEXT, "kind": TEXT, "name": TEXT}),
    }, "patch")),
}, "apiVersion", "kind", "resources")  # fmt: skip


def resource(api_version: str, kind: str, spec: Schema) -> Schema:
    parts = {"name": LABEL, "namespace": LABEL, "labels": TEXT_MAP, "annotations": TEXT_MAP}
    metadata = record(parts, "name", "namespace")
    fields = {"apiVersion": one_of(api_version), "kind": one_of(kind), "metadata": metadata, "spec": spec}
    return record(fields, *fields)


RESOURCES = {
    kind: resource(api_version, kind, spec)
    for api_version, kind, spec in (
        ("ray.io/v1", "RayCluster", CLUSTER),
        ("ray.io/v1", "RayJob", JOB),
        ("ray.io/v1", "RayService", SERVICE),
        ("ray.io/v1", "RayCronJob", CRON_JOB),
        ("monitoring.coreos.com/v1", "PodMonitor", POD_MONITOR),
    )
}
