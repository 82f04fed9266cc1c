"""Jobs, each with a cluster of its own that ends with it, and those of every night."""

from __future__ import annotations

import shlex
import string
from typing import Any

from raytrain_xai.cluster.documents import Document, document
from raytrain_xai.cluster.pods import gpus_of
from raytrain_xai.cluster.ray import API, cluster_spec, worker_group
from raytrain_xai.cluster_config import ClusterValues, JobValues, NightlyValues
from raytrain_xai.errors import ConfigError

QUEUE = "kueue.x-k8s.io/queue-name"
REFUSED = 2  # exit code of a command whose input is wrong, such as the name of a run that exists


def ray_job(values: ClusterValues, name: str, job: JobValues) -> Document:
    """A job; Kueue admits it as a whole when there is a queue."""
    labels = {} if values.queue is None else {QUEUE: values.queue}
    return document(values, API, "RayJob", name, labels=labels, spec=job_spec(values, name, job))


def ray_cron_job(values: ClusterValues, name: str, job: NightlyValues) -> Document:
    """A job that begins by the clock. KubeRay copies no labels to it: Kueue sees it by a default queue only."""
    spec = {
        "schedule": job.schedule,
        "timeZone": values.time_zone,
        "suspend": job.suspend,
        "jobTemplate": job_spec(values, name, job),
    }
    return document(values, API, "RayCronJob", name, spec=spec)


def job_spec(values: ClusterValues, name: str, job: JobValues) -> dict[str, Any]:
    """Specification of a job. With a queue its cluster has a fixed size, because Kueue refuses one that grows."""
    queued = values.queue is not None
    groups = [worker_group(values, job.pool, fixed=job.workers if queued else None, most=job.workers)]
    if values.pool(job.pool) is not values.data:  # beside the GPUs, for loading and preparing pictures
        groups.append(worker_group(values, "data", fixed=1 if queued else None))
    return {
        "entrypoint": entrypoint(values, name, job),
        "submissionMode": "HTTPMode",  # no pod for submitting: fewer parts, and the shell reads the command as written
        "entrypointNumCpus": 0,  # the driver sits on the head
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": job.retries,
        "preRunningDeadlineSeconds": 60 * job.wait_minutes,
        "activeDeadlineSeconds": round(3600 * job.hours),
        "rayClusterSpec": cluster_spec(values, groups, grows=not queued),
    }


def entrypoint(values: ClusterValues, name: str, job: JobValues) -> str:
    """The shell line of a job; the command for later attempts follows where the first one is refused."""
    first = _filled(values, name, job, job.command)
    if job.again is None:
        return first
    return f"{first} || {{ [ $? = {REFUSED} ] && {_filled(values, name, job, job.again)}; }}"


def _filled(values: ClusterValues, name: str, job: JobValues, command: str) -> str:
    size = values.pool(job.pool)
    each = max(gpus_of(size), 1)  # a process per GPU
    known = {
        "bucket": f"s3://{values.storage.bucket}",
        "workers": str(job.workers * each),
        "gpus": str(min(gpus_of(size), 1)),
        "cpus": str(max((size.cpu - 1) // each, 1)),  # one is left for what Ray itself places beside them
    }
    try:
        asked = {field for _, field, _, _ in string.Formatter().parse(command) if field is not None}
        text = command.format(**known)
        shlex.split(text)
    except (ValueError, KeyError, IndexError) as error:
        filled = ", ".join(f"{{{key}}}" for key in known)
        raise ConfigError(
            f"the command of job {name} cannot be filled in ({type(error).__name__}: {error}); known are {filled}, and "
            "other braces are written twice"
        ) from error
    assert asked <= known.keys()
    return f"raytrain-xai {text}"
