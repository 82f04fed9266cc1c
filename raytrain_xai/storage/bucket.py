"""What pyarrow's client cannot do on S3: links for browsers, uploads that were never finished, listings by page.

Needs boto3 (extra ``s3``). It is given the server, region and permissions of :mod:`raytrain_xai.storage.address`; its
own ways to find another server are switched off, so that both clients always speak to the same one.
"""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyarrow import fs

from raytrain_xai.errors import ConfigError
from raytrain_xai.storage.address import ANSWER_S, CONNECT_S, S3Address, parse_s3
from raytrain_xai.storage.location import Location
from raytrain_xai.storage.named import performed
from raytrain_xai.storage.patience import REQUESTS, one_line

_PAGE = 1000  # entries, the most that S3 lists at once
_LONGEST_LINK_S = 7 * 24 * 3600  # of signature version 4


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was neither finished nor ended; its parts are stored, paid for, and not listed.

    Attributes:
        name: of the file it would have become, relative to the folder, with ``/``.
        upload_id: of the server.
        begun: seconds since 1970.
    """

    name: str
    upload_id: str
    begun: float


def link_to(at: Location, hours: float) -> str:
    """An address that opens a file on S3 in a browser for some time, for whoever has it.

    Nothing is asked of the server. Credentials that expire earlier (of a role) take the link with them.

    Args:
        at: a file on S3.
        hours: until it ends, at most 168.
    Raises:
        ConfigError: not on S3, too long, no credentials, or boto3 is not installed.
    """
    address, client = _client(at)
    seconds = round(hours * 3600)
    if not 0 < seconds <= _LONGEST_LINK_S:
        raise ConfigError(f"a link for {hours:g} hours; S3 signs for more than 0 and at most 168 hours")
    kind = mimetypes.guess_type(address.key)[0] or "application/octet-stream"  # else a page is saved, not shown
    params = {"Bucket": address.bucket, "Key": address.key, "ResponseContentType": kind}
    from botocore.exceptions import BotoCoreError  # _client has imported the package

    try:
        return str(client.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds))
    except BotoCoreError as error:
        raise ConfigError(f"cannot make a link to {at.uri}: {one_line(error)}") from error


def walk(at: Location) -> Iterator[tuple[str, int]]:
    """Files below a folder on S3 at any depth, page by page: name relative to it with ``/`` and bytes, by name.

    Memory is that of a page of 1000 files, however many there are.

    Raises:
        DataError: it cannot be listed.
        ConfigError: boto3 is not installed.
    """
    address, client = _client(at)
    prefix = f"{address.key}/" if address.key else ""
    request: dict[str, Any] = {"Bucket": address.bucket, "Prefix": prefix, "MaxKeys": _PAGE}
    while True:
        page = performed(at, "list", _answering(client.list_objects_v2, request))
        for entry in page.get("Contents", ()):
            name = entry["Key"][len(prefix) :]
            if name and not name.endswith("/"):  # objects of that name stand for empty folders
                yield name, entry["Size"]
        if not page.get("IsTruncated"):
            return
        request |= {"ContinuationToken": page["NextContinuationToken"]}


def unfinished_uploads(at: Location, older_than_s: float) -> Iterator[Upload]:
    """Uploads below a folder on S3 that began at least so many seconds ago, page by page.

    Raises:
        DataError: they cannot be listed.
        ConfigError: boto3 is not installed.
    """
    address, client = _client(at)
    prefix = f"{address.key}/" if address.key else ""
    request: dict[str, Any] = {"Bucket": address.bucket, "Prefix": prefix}
    newest = time.time() - older_than_s
    while True:
        page = performed(at, "list the uploads of", _answering(client.list_multipart_uploads, request))
        for entry in page.get("Uploads", ()):
            begun = entry["Initiated"].timestamp()
            if begun <= newest:
                yield Upload(entry["Key"][len(prefix) :], entry["UploadId"], begun)
        if not page.get("IsTruncated"):
            return
        request |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_uploads(at: Location, uploads: Iterable[Upload]) -> Iterator[Upload]:
    """End uploads that :func:`unfinished_uploads` found below ``at``, so that their parts are gone; yields each then.

    Raises:
        DataError: one cannot be ended.
    """
    address, client = _client(at)
    for upload in uploads:
        key = f"{address.key}/{upload.name}" if address.key else upload.name
        request = {"Bucket": address.bucket, "Key": key, "UploadId": upload.upload_id}
        file = at.child(*upload.name.split("/"))
        performed(file, "end the upload of", _answering(client.abort_multipart_upload, request))
        yield upload


def _client(at: Location) -> tuple[S3Address, Any]:
    if at.is_local:
        raise ConfigError(f"{at.uri} is not on S3; give s3://BUCKET/PATH")
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError("this needs boto3, which is not installed; pip install 'raytrain-xai[s3]'") from error
    address = replace(parse_s3(at.uri), path=at.path)  # names of files may hold what means something in an address
    assert isinstance(at.filesystem, fs.S3FileSystem)
    style = "virtual" if address.virtual_hosts or address.endpoint is None else "path"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": style},
        ignore_configured_endpoint_urls=True,
        retries={"mode": "standard", "total_max_attempts": REQUESTS},
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
    )
    endpoint = f"{address.scheme}://{address.endpoint}" if address.endpoint else None
    options = {"endpoint_url": endpoint, "region_name": at.filesystem.region, "verify": address.ca_file}
    return address, boto3.client("s3", config=config, **options)


def _answering(call: Callable[..., Any], request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The call with boto3's errors in the words of pyarrow's client, by which it is known which of them pass.

    Raises, when called:
        ConfigError: no credentials were found.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        HTTPClientError,
        NoCredentialsError,
        SSLError,
    )

    def answer() -> dict[str, Any]:
        try:
            return call(**request)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise OSError(f"AWS Error (HTTP status {status}): {one_line(error)}") from error
        except NoCredentialsError as error:
            raise ConfigError(f"{one_line(error)}; set AWS_ACCESS_KEY_ID, a profile, or a role") from error
        except BotoCoreError as error:
            may_pass = isinstance(error, (ConnectionError, HTTPClientError)) and not isinstance(error, SSLError)
            raise OSError(f"{'AWS Error NETWORK_CONNECTION: ' if may_pass else ''}{one_line(error)}") from error

    return answer
