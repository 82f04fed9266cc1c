"""``s3://`` addresses, and the client that reaches them.

====================  ================================================================================================
what                  from the first that says it
====================  ================================================================================================
server                ``?endpoint_override=HOST:PORT&scheme=http``, ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``,
                      Amazon. ``endpoint_url`` of a profile is not read.
region                ``?region=``; with another server than Amazon's ``AWS_DEFAULT_REGION``, ``AWS_REGION``, the
                      profile, us-east-1; else Amazon is asked where the bucket lies.
credentials           ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``; the profile
                      (``AWS_PROFILE``) of ``~/.aws/credentials`` and ``~/.aws/config``; the web identity or role of
                      the container or machine. Never the address: it appears in logs, configurations and messages.
certificates          ``?tls_ca_file_path=``, ``AWS_CA_BUNDLE``, those of the system
====================  ================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from pyarrow import fs

from raytrain_xai.errors import ConfigError
from raytrain_xai.storage.patience import REQUESTS, one_line

CONNECT_S = 5.0
ANSWER_S = 20.0  # without a byte; the client's own 3 s end requests that a busy server would have answered
_OPTIONS = ("endpoint_override", "scheme", "region", "force_virtual_addressing", "tls_ca_file_path")
_SECRETS = {"access_key", "secret_key", "session_token"}
_EXPECTED = "expected s3://BUCKET/PATH[?endpoint_override=HOST:PORT]"


@dataclass(frozen=True)
class S3Address:
    """A place on S3.

    Attributes:
        path: ``BUCKET/KEY``, without a slash at its end.
        endpoint: ``HOST[:PORT][/PATH]`` of another server than Amazon's.
        scheme: https, or http for a server without TLS.
        region: as given in the address.
        virtual_hosts: the bucket is part of the host name, also on another server than Amazon's.
        ca_file: certificates (PEM) that the server's is checked with; None: those of the system.
    """

    path: str
    endpoint: str | None
    scheme: str
    region: str | None
    virtual_hosts: bool
    ca_file: str | None

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.path.partition("/")[0]

    @property
    def key(self) -> str:
        """What follows the bucket, without a slash at either end."""
        return self.path.partition("/")[2]


def parse_s3(uri: str) -> S3Address:
    """Take an address apart, with what the environment adds; see the table of this module.

    Raises:
        ConfigError: no bucket, credentials in it, or an unknown or impossible option.
    """
    base, _, query = uri.partition("://")[2].partition("?")
    bucket, _, key = base.partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if "@" in bucket or _SECRETS & options.keys():
        raise ConfigError(
            f"s3://{bucket.rpartition('@')[2]}/{key}: an address must not hold credentials, it is written to "
            "configurations and logs; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        )
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise ConfigError(f"{uri}: unknown option {unknown[0]!r}; known are {', '.join(_OPTIONS)}")
    if not bucket:
        raise ConfigError(f"{uri}: no bucket; {_EXPECTED}")
    path = f"{bucket}/{unquote(key).strip('/')}".rstrip("/")
    endpoint, scheme = _server(options, uri)
    return S3Address(
        path=path,
        endpoint=endpoint,
        scheme=scheme,
        region=options.get("region") or None,
        virtual_hosts=options.get("force_virtual_addressing", "false").lower() == "true",
        ca_file=options.get("tls_ca_file_path") or os.environ.get("AWS_CA_BUNDLE") or None,
    )


def connect(address: S3Address, uri: str) -> fs.S3FileSystem:
    """The client; nothing is asked of the server, except where a bucket of Amazon's lies.

    Raises:
        ConfigError: the client refuses the address, or Amazon cannot be asked, or has no such bucket.
    """
    try:
        region = address.region
        if region is None and address.endpoint is None:
            region = fs.resolve_s3_region(address.bucket)
        return fs.S3FileSystem(
            region=region,
            endpoint_override=address.endpoint,
            scheme=address.scheme,
            connect_timeout=CONNECT_S,
            request_timeout=ANSWER_S,
            force_virtual_addressing=address.virtual_hosts,
            # A small file is one request instead of three, and what was not written yet is not there at all.
            allow_delayed_open=True,
            # Not among what travels to other processes, where a client gets pyarrow's default: this one, of 3 requests.
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=REQUESTS),
            **({} if address.ca_file is None else {"tls_ca_file_path": address.ca_file}),
        )
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{uri}: {one_line(error)}; {_EXPECTED}") from error


def _server(options: Mapping[str, str], uri: str) -> tuple[str | None, str]:
    """Endpoint without scheme, and the scheme."""
    scheme = options.get("scheme", "https")
    endpoint = options.get("endpoint_override")
    if endpoint is None:
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        found, separator, endpoint = named.rpartition("://")
        scheme = options.get("scheme", found or "https")
        if named and not separator:
            raise ConfigError(f"AWS_ENDPOINT_URL={named}: expected https://HOST[:PORT] or http://HOST[:PORT]")
    if scheme not in ("http", "https"):
        raise ConfigError(f"{uri}: scheme {scheme!r} of the server; expected https or http")
    return endpoint.rstrip("/") or None, scheme
