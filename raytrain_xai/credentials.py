"""What opens things, inside texts: found, so that no configuration keeps it, and cut out of what people see.

Configurations are stored with runs, shown in reports, copied into checkpoints and posted to clusters; messages end in
logs. So neither may hold a password. Two forms are known: ``scheme://USER:PASSWORD@HOST`` and ``?secret_key=...`` of
addresses, which covers the signatures of presigned links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s\"']*@")
_OPTION = re.compile(
    r"([?&;][^=&;\s\"']*(?:key|secret|token|password|signature|credential)[^=&;\s\"']*=)[^&;\s\"'#]+", re.I
)
_MLFLOW = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_REDIS = "RAYTRAIN_XAI_REDIS_USERNAME and RAYTRAIN_XAI_REDIS_PASSWORD"
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "redis": _REDIS,
    "rediss": _REDIS,
    "http": _MLFLOW,
    "https": _MLFLOW,
}


def without_credentials(text: str) -> str:
    """``text`` with users, passwords and secret options cut out of its addresses."""
    return _OPTION.sub(r"\1***", _USER.sub(r"\1", text)) if "://" in text else text


def refuse_credentials(value: object, path: str = "") -> None:
    """Check that no address in a configuration holds what opens it.

    Args:
        value: a value of a configuration, or mappings and lists of them.
        path: of keys that lead to it, for the message.
    Raises:
        ValueError: names the key and where the credentials belong; never shows them.
    """
    if isinstance(value, str):
        shown = without_credentials(value)
        if shown != value:
            raise ValueError(
                f"{path or 'the address'} holds credentials, which would be stored and shown with the configuration; "
                f"take them out of {shown} and set {_variables(value)} in the environment"
            )
    elif isinstance(value, Mapping):
        for key, below in value.items():
            refuse_credentials(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for below in value:
            refuse_credentials(below, path)


def _variables(address: str) -> str:
    return _VARIABLES.get(address.partition("://")[0].lower(), "them")
