"""A trial out of its sweep: a run folder of its own, which needs nothing of the sweep any more."""

from __future__ import annotations

from raytrain_xai.config import RunConfig, parse_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.run_folder import CONFIG, METRICS, read_config, storage_and_name, write_config
from raytrain_xai.storage import exists, list_tree, locate, read_bytes, write_bytes
from raytrain_xai.sweeps.folder import find_sweep, trial_run
from raytrain_xai.sweeps.gather import open_sweep

ORDER = "annotation_order.json"


def best_trial(address: str, metric: str) -> str:
    """Id of the finished trial with the best validation value of a metric, the first of equals.

    Args:
        address: of the sweep.
        metric: higher is better unless the sweep's objectives say otherwise.
    Raises:
        ConfigError: no sweep, or no finished trial has the metric; lists those there are.
        CheckpointError: a file of the sweep is damaged.
    """
    sweep = open_sweep(address)
    finished = [row for row in sweep.rows if row.status == "finished" and not row.is_baseline]
    found = [row for row in finished if metric in row.val]
    if not found:
        known = ", ".join(sorted({name for row in finished for name in row.val})) or "none, no trial is finished"
        raise ConfigError(f"no finished trial of {address} has the metric {metric}; there are: {known}")
    sign = -1.0 if sweep.config.objectives.get(metric) == "min" else 1.0
    return max(found, key=lambda row: sign * row.val[metric]).id


def export_trial(address: str, trial: str, dest: str) -> str:
    """Copy the run folder of a finished trial; the annotation order it was trained with comes along.

    The address of the baseline stays in the configuration as where it came from; nothing reads it again.

    Args:
        address: of the sweep.
        trial: id, or the beginning of one.
        dest: folder or s3:// address that becomes the run.
    Returns:
        Address of the run.
    Raises:
        ConfigError: no sweep, no such trial or more than one, it is not finished, or ``dest`` holds a run.
        DataError: the storage cannot be read or written.
    """
    at, target = find_sweep(address), locate(dest)
    run = trial_run(at, _full_id(address, trial))
    if not exists(run.child(METRICS)):
        raise ConfigError(f"trial {trial} of {address} is not finished; choose another, or go on with --resume")
    if exists(target.child(CONFIG)):
        raise ConfigError(f"{dest} holds a run already; choose another folder")
    raw = read_config(run)
    config = parse_job(raw, source=run.child(CONFIG).uri)
    storage, name = storage_and_name(target)
    config = config.model_copy(update={"storage": storage, "name": name})
    if isinstance(config, RunConfig) and config.guidance.annotation_order is not None:
        order = target.child(ORDER)
        write_bytes(order, read_bytes(locate(config.guidance.annotation_order)))
        guidance = config.guidance.model_copy(update={"annotation_order": order.uri if "://" in dest else order.path})
        config = config.model_copy(update={"guidance": guidance})
    for file in list_tree(run):
        if file != CONFIG:
            write_bytes(target.child(*file.split("/")), read_bytes(run.child(*file.split("/"))))
    write_config(target, config)  # last: with it, the folder is a run
    return target.uri


def _full_id(address: str, trial: str) -> str:
    known = [row.id for row in open_sweep(address).rows if not row.is_baseline]
    found = [name for name in known if name == trial] or [name for name in known if name.startswith(trial)]
    if len(found) != 1:
        some = ", ".join((found or known)[:10])
        what = "no trial begins" if not found else f"{len(found)} trials begin"
        raise ConfigError(f"{what} with {trial!r} in {address}; there are: {some}")
    return found[0]
