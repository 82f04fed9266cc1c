"""What differs between clusters: one file of values from which all Kubernetes manifests are made.

The shipped files are in ``cluster/values/``; ``raytrain-xai cluster render`` turns one into manifests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from raytrain_xai.config_text import overridden, read_yaml, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.sections import Section

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$")]
"""Short enough that KubeRay's own suffixes still fit into 63 characters."""
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]
Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9.]{1,61}[a-z0-9]$")]
Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F:.]+/[0-9]{1,3}$")]
Pool = Literal["data", "train", "spot"]


class ImageValues(Section):
    cpu: str = "raytrain-xai:0.1.0-cpu"
    """Of the head, of data workers and of everything without a GPU; target ``cpu`` of cluster/Dockerfile."""
    cuda: str = "raytrain-xai:0.1.0-cuda"
    """Of workers with GPUs; target ``cuda``."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: tuple[Name, ...] = ()
    """Names of secrets with registry credentials."""


class StorageValues(Section):
    bucket: Bucket = "raytrain-xai"
    """Runs, data sets and caches of all jobs; it has to exist."""
    region: str | None = None
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^@\s]+$")
    """Address of a server other than Amazon's."""
    secret: Name | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; none: the service account's identity."""
    ports: tuple[int, ...] = (443,)
    """Ports that pods may reach outside of the cluster."""
    cidrs: tuple[Cidr, ...] = ("0.0.0.0/0",)
    """Addresses that pods may reach on these ports."""


class GroupValues(Section):
    """Workers of one kind."""

    min_replicas: int = Field(default=0, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    cpu: int = Field(default=4, ge=1)
    memory: Memory = "16Gi"
    disk: Memory = "20Gi"
    """For logs, spilled objects and files that are being worked on."""
    idle_s: int = Field(default=300, ge=10)
    """Seconds without work after which a worker leaves."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class GpuGroupValues(GroupValues):
    cpu: int = Field(default=8, ge=1)
    memory: Memory = "64Gi"
    gpus: int = Field(default=1, ge=1)
    """GPUs of each worker."""
    gpu_type: str | None = None
    """Value of the node label ``gpu_label``; none: any GPU."""
    gpu_label: str = "nvidia.com/gpu.product"


class SpotValues(GpuGroupValues):
    """Nodes that may be taken away: tainted, so that nothing else lands there."""

    label: str = "raytrain-xai/spot"
    """Label of these nodes and key of their taint, both with the value "true"."""
    notice_s: int = Field(default=100, ge=10)
    """Seconds between the notice and the end; time for a checkpoint."""


class HeadValues(Section):
    cpu: int = Field(default=2, ge=1)
    memory: Memory = "8Gi"
    disk: Memory = "20Gi"


class RedisValues(Section):
    """Where the head keeps what it knows, so that a new head goes on with the old workers."""

    address: str = Field(default="redis:6379", pattern=r"^[^@\s]+:[0-9]+$")
    secret: Name = "raytrain-xai-redis"
    """Secret with the key ``password``."""
    namespace: Name | None = None
    """Namespace of the server; none: the same one."""


class ServeValues(GpuGroupValues):
    """Workers of the service."""

    min_replicas: int = Field(default=2, ge=1)
    gpus: int = Field(default=1, ge=0)
    config: str | None = None
    """File of Ray Serve's configuration; none: serve/config/production.yaml."""
    replica: dict[str, float] = {}
    """Changes to ``args.replica`` of every application in it."""
    keys_secret: Name = "raytrain-xai-keys"
    """Secret with the key ``keys.jsonl``, written by ``raytrain-xai serve-keys``."""


class IngressValues(Section):
    host: Host | None = None
    """Name under which the service is reached from outside; none: it is not."""
    class_name: Name | None = None
    tls_secret: Name | None = None
    """Secret with the certificate; keys of clients must not travel without."""
    namespace: Name = "ingress-nginx"
    """Namespace of the ingress controller, the only one that may call the service from outside."""
    body_size: str = "64m"

    @model_validator(mode="after")
    def _only_encrypted(self) -> Self:
        if self.host is not None and self.tls_secret is None:
            raise ValueError("host needs tls_secret: API keys must not travel unencrypted")
        return self


class NetworkValues(Section):
    operator_namespace: Name = "kuberay-system"
    monitoring_namespace: Name = "monitoring"
    dns_namespace: Name = "kube-system"
    api_server_ports: tuple[int, ...] = (443, 6443)
    """Ports of the Kubernetes API, which the autoscaler beside the head talks to."""


class ServiceAccountValues(Section):
    annotations: dict[str, str] = {}
    """For example the cloud role that may use the bucket."""


class JobValues(Section):
    """A job. In its commands ``{bucket}`` is filled in, and ``{workers}``: processes, one per GPU or, without GPUs, one
    per pod; ``{gpus}`` and ``{cpus}`` are those of a process."""

    command: str
    """What follows ``raytrain-xai``."""
    again: str | None = None
    """What follows ``raytrain-xai`` when the first command is refused, because an earlier attempt has begun."""
    pool: Pool = "data"
    """Workers that it needs; data where there are no others."""
    workers: int = Field(default=1, ge=1)
    """Pods."""
    retries: int = Field(default=1, ge=0)
    hours: float = Field(default=24, gt=0)
    """Time after which it is ended."""
    wait_minutes: int = Field(default=60, ge=1)
    """Time after which it is given up when the cluster has no place for it."""


class NightlyValues(JobValues):
    schedule: str = Field(default="0 2 * * *", pattern=r"^\S+( \S+){4}$")
    suspend: bool = False
    hours: float = Field(default=8, gt=0)


class EstimateValues(Section):
    duty: float | None = Field(default=None, ge=0, le=1)
    """Share of the month in which workers above the minimum are used; none: all of it."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    spot_price_per_gpu_hour: float | None = Field(default=None, ge=0)


class ClusterValues(Section):
    """All values; see the sections."""

    name: Name = "raytrain-xai"
    namespace: Name = "raytrain-xai"
    ray_version: str = Field(default="2.60.0", pattern=r"^\d+\.\d+\.\d+$")
    """Of Ray in the images."""
    image: ImageValues = ImageValues()
    storage: StorageValues = StorageValues()
    token_secret: Name = "raytrain-xai-token"
    """Secret with the key ``auth_token``: who has it may run anything on the cluster."""
    queue: Name | None = None
    """Kueue's local queue of the jobs, which then have a fixed size; none: their clusters grow and shrink."""
    head: HeadValues = HeadValues()
    data: GroupValues = GroupValues()
    train: GpuGroupValues | None = GpuGroupValues()
    spot: SpotValues | None = None
    redis: RedisValues | None = RedisValues()
    serve: ServeValues | None = ServeValues()
    ingress: IngressValues = IngressValues()
    network: NetworkValues = NetworkValues()
    service_account: ServiceAccountValues = ServiceAccountValues()
    monitoring: bool = True
    """PodMonitor and dashboard; needs the Prometheus operator."""
    jobs: dict[Name, JobValues] = {}
    nightly: dict[Name, NightlyValues] = {}
    time_zone: str = Field(default="Etc/UTC", min_length=1)
    estimate: EstimateValues = EstimateValues()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        taken = sorted(self.jobs.keys() & self.nightly.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)} is in jobs and in nightly; give them different names")
        if self.ingress.host is not None and self.serve is None:
            raise ValueError("ingress.host without serve: there is nothing to reach; set serve or no host")
        return self

    @model_validator(mode="after")
    def _jobs_fit(self) -> Self:
        for name, job in (self.jobs | self.nightly).items():
            room = self.pool(job.pool).max_replicas
            if job.workers > room:
                raise ValueError(f"job {name} needs {job.workers} workers, {job.pool}.max_replicas allows {room}")
        return self

    def pool(self, name: Pool) -> GroupValues:
        """Workers of a kind; those for data where the cluster has no others."""
        return getattr(self, name) or self.data


def load_values(file: str | Path, overrides: Sequence[str] = ()) -> ClusterValues:
    """Read a file of values, apply ``a.b=c`` overrides (values are YAML) and validate.

    A key ``extends`` names another file, beside this one, whose values hold where this one says nothing.

    Raises:
        ConfigError: no such file, or names every key that is unknown (with the nearest known one) or has a wrong value.
    """
    return validated(ClusterValues, overridden(_read(Path(file), ()), overrides), source=str(file))


def _read(file: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if file in below:
        raise ConfigError(f"{below[0]} extends itself by way of {file}; take extends out of one of them")
    raw = read_yaml(file)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise ConfigError(f"{file}: extends is {parent!r}, expected the name of a file beside this one")
    return _laid_over(_read(file.parent / parent, (*below, file)), raw)


def _laid_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
