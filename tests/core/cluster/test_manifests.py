"""What manifests promise: where work lands, who may do what, and nothing secret in any of them."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from manifest_checks import clusters_of, templates_of
from shipped_values import ROOT, Shipped, render

from raytrain_xai.errors import ConfigError
from serve.settings import ServeSettings

JOB_KINDS = {"train", "tune", "features", "distill-cache", "catalogue", "batch-explain"}


def specs_of(shipped: Shipped) -> list[dict[str, Any]]:
    return [cluster for manifest in shipped.found for cluster in clusters_of(manifest)]


def groups_of(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def container_of(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return container


def test_every_cluster_asks_for_the_token_and_keeps_work_off_its_head(shipped: Shipped) -> None:
    specs = specs_of(shipped)
    assert len(specs) == 8 + len(shipped.of_kind("RayCluster")) + len(shipped.of_kind("RayService"))
    for spec in specs:
        assert spec["authOptions"] == {"mode": "token", "secretName": "raytrain-xai-token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["headGroupSpec"]["enableIngress"] is False
        assert spec["rayVersion"] == version("ray")


def test_every_pod_is_confined(shipped: Shipped) -> None:
    for template in (template for spec in specs_of(shipped) for template in templates_of(spec)):
        pod = template["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        mounted, there = {m["name"] for m in container["volumeMounts"]}, {v["name"] for v in pod["volumes"]}
        assert mounted == there
        is_head = container["name"] == "ray-head"
        assert pod["automountServiceAccountToken"] == is_head
        assert pod["serviceAccountName"] == ("raytrain-xai-head" if is_head else "raytrain-xai")


def test_the_rules_of_kuberay_that_no_schema_holds(shipped: Shipped) -> None:
    """From controllers/ray/utils/validation.go: what the operator refuses when it reads a resource."""
    for manifest in shipped.found:
        for spec in clusters_of(manifest):
            assert all(template["spec"].get("restartPolicy") == "Never" for template in templates_of(spec))
            names = {variable["name"] for variable in container_of(spec["headGroupSpec"])["env"]}
            assert not names & {"RAY_enable_autoscaler_v2", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}
            assert len({group["groupName"] for group in spec["workerGroupSpecs"]}) == len(spec["workerGroupSpecs"])
            if not spec["enableInTreeAutoscaling"]:
                assert "autoscalerOptions" not in spec
            else:
                assert spec["autoscalerOptions"]["version"] == "v2"
        job = manifest["spec"].get("jobTemplate", manifest["spec"]) if manifest["kind"].endswith("Job") else None
        if job is not None:
            assert job["shutdownAfterJobFinishes"]
            assert job["ttlSecondsAfterFinished"] >= 0
            assert job["activeDeadlineSeconds"] > 0
            assert "submitterPodTemplate" not in job
        assert len(manifest["metadata"]["name"]) <= 41
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])


def test_the_rules_of_kueue_that_no_schema_holds() -> None:
    """From pkg/controller/jobs/rayjob: what its webhook refuses."""
    shipped = render("gpu")
    jobs = shipped.of_kind("RayJob")
    assert {job["metadata"]["name"] for job in jobs} == JOB_KINDS
    for job in jobs:
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "raytrain-xai"
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is False
        assert len(cluster["workerGroupSpecs"]) <= 7
        assert "head" not in groups_of(cluster)
        assert "clusterSelector" not in job["spec"]
        for group in cluster["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0
    for other in shipped.of_kind("RayCluster") + shipped.of_kind("RayService"):
        assert "kueue.x-k8s.io/queue-name" not in other["metadata"]["labels"]  # they grow


def test_gpu_workers_come_from_zero(base: Shipped) -> None:
    groups = groups_of(base.named("RayCluster", "raytrain-xai")["spec"])
    assert list(groups) == ["data", "train"]
    assert (groups["train"]["minReplicas"], groups["train"]["maxReplicas"]) == (0, 4)
    assert container_of(groups["train"])["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container_of(groups["train"])["image"] == "raytrain-xai:0.1.0-cuda"
    assert "nvidia.com/gpu" not in container_of(groups["data"])["resources"]["limits"]
    # work that needs no GPU must not buy one
    assert groups["data"]["priority"] > groups["train"]["priority"]


def test_a_job_gets_no_more_workers_than_it_asks_for(base: Shipped) -> None:
    groups = groups_of(base.named("RayJob", "train")["spec"]["rayClusterSpec"])
    assert {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups.items()} == {
        "train": (0, 2), "data": (0, 4)
    }  # fmt: skip
    warm = render("base", "train.min_replicas=3", "train.max_replicas=5")
    group = groups_of(warm.named("RayJob", "train")["spec"]["rayClusterSpec"])["train"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    drift = base.named("RayCronJob", "nightly-drift")["spec"]["jobTemplate"]["rayClusterSpec"]
    assert list(groups_of(drift)) == ["data"]


def test_spot_workers_stand_on_spot_nodes_only() -> None:
    shipped = render("spot")
    groups = groups_of(shipped.named("RayCluster", "raytrain-xai")["spec"])
    pod = groups["spot"]["template"]["spec"]
    assert pod["nodeSelector"] == {"raytrain-xai/spot": "true"}
    taint = {"key": "raytrain-xai/spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert taint in pod["tolerations"]
    assert taint not in groups["train"]["template"]["spec"]["tolerations"]
    assert pod["terminationGracePeriodSeconds"] == 100
    assert groups["data"]["priority"] > groups["spot"]["priority"] > groups["train"]["priority"]
    assert "spot" in groups_of(shipped.named("RayJob", "train")["spec"]["rayClusterSpec"])
    serving = shipped.named("RayService", "raytrain-xai-serve")["spec"]["rayClusterConfig"]
    assert list(groups_of(serving)) == ["serve"]


def test_workers_of_the_service_spread_and_those_of_a_training_stay_together(base: Shipped) -> None:
    serving = base.named("RayService", "raytrain-xai-serve")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    constraints = serving["template"]["spec"]["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    labels = serving["template"]["metadata"]["labels"]
    assert all(constraint["labelSelector"]["matchLabels"].items() <= labels.items() for constraint in constraints)
    training = groups_of(base.named("RayCluster", "raytrain-xai")["spec"])["train"]["template"]["spec"]
    assert "podAffinity" in training["affinity"]
    assert "topologySpreadConstraints" not in training


def test_the_service_is_the_one_of_the_repository(shipped: Shipped) -> None:
    production = yaml.safe_load((ROOT / "serve/config/production.yaml").read_text(encoding="utf-8"))
    for service in shipped.of_kind("RayService"):
        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        if shipped.folder.name == "cpu":
            assert config["applications"][0]["args"]["replica"].pop("num_gpus") == 0
            assert production["applications"][0]["args"]["replica"].pop("num_gpus") == 0.5
        assert config == production
        ServeSettings.model_validate(config["applications"][0]["args"])
        (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        mount = next(m for m in container_of(group)["volumeMounts"] if m["name"] == "keys")
        assert config["applications"][0]["args"]["security"]["keys"] == f"{mount['mountPath']}/keys.jsonl"
        assert service["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
        assert service["spec"]["excludeHeadPodFromServeSvc"]


def test_replicas_that_fit_no_worker_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"num_gpus=0.5, a worker has 0; raise serve.gpus or set serve.replica.num_gpus"
    ):
        render("base", "serve.gpus=0")
    with pytest.raises(ConfigError, match=r"unknown key replica.num_cpu.*did you mean num_cpus"):
        render("base", "serve.replica={num_cpu: 2}")


def test_the_budget_leaves_room_for_one() -> None:
    (budget,) = render("base", "serve.min_replicas=3").of_kind("PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 2
    assert "maxUnavailable" not in budget["spec"]  # not understood for pods of custom resources
    assert render("base", "serve.min_replicas=1").of_kind("PodDisruptionBudget") == []


def test_requests_go_before_jobs_and_jobs_push_nobody_out(base: Shipped) -> None:
    serve, batch = (base.named("PriorityClass", f"raytrain-xai-{name}") for name in ("serve", "batch"))
    assert serve["value"] > batch["value"]
    assert batch["preemptionPolicy"] == "Never"
    names = {t["spec"]["priorityClassName"] for spec in specs_of(base) for t in templates_of(spec)}
    assert names == {"raytrain-xai-serve", "raytrain-xai-batch"}


def test_secrets_are_named_and_never_written() -> None:
    shipped = render("base", "storage.secret=s3", "image.pull_secrets=[registry]")
    text = json.dumps(shipped.found)
    assert not shipped.of_kind("Secret")
    sources = [
        variable["valueFrom"]["secretKeyRef"]["key"]
        for variable in container_of(shipped.named("RayCluster", "raytrain-xai")["spec"]["headGroupSpec"])["env"]
        if re.search("SECRET|KEY|TOKEN|PASSWORD", variable["name"])
    ]
    assert sources == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    redis = shipped.named("RayCluster", "raytrain-xai")["spec"]["gcsFaultToleranceOptions"]["redisPassword"]
    assert redis == {"valueFrom": {"secretKeyRef": {"name": "raytrain-xai-redis", "key": "password"}}}
    assert not re.search(r"AKIA|-----BEGIN|://[^/\s\"]*:[^/\s\"]*@", text)


def test_rights_are_those_of_the_autoscaler_and_no_more(base: Shipped) -> None:
    assert base.named("Role", "raytrain-xai-head")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
    ]
    (binding,) = base.of_kind("RoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["raytrain-xai-head"]


def test_the_dashboard_is_the_one_of_the_repository(base: Shipped) -> None:
    data = base.named("ConfigMap", "raytrain-xai-dashboard")["data"]["raytrain-xai.json"]
    assert data == (ROOT / "serve/dashboards/grafana.json").read_text(encoding="utf-8")


def test_prometheus_finds_the_port_that_pods_name(base: Shipped) -> None:
    (monitor,) = base.of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for template in (template for spec in specs_of(base) for template in templates_of(spec)):
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports[endpoint["port"]] == 8080
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_nightly_jobs(base: Shipped) -> None:
    drift, training = (base.named("RayCronJob", f"nightly-{name}")["spec"] for name in ("drift", "train"))
    assert (drift["schedule"], training["schedule"], training["timeZone"]) == ("0 2 * * *", "0 3 * * *", "Etc/UTC")
    assert drift["jobTemplate"]["backoffLimit"] == 0
    assert "$(date -u +%F)" in training["jobTemplate"]["entrypoint"]  # a name of its own every night
