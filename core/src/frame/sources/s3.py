"""`s3://bucket/key`: an archive, a file, or all objects below a prefix. Needs boto3.

Credentials, region and endpoint are found as boto3 finds them: variables (`AWS_ENDPOINT_URL`), profiles, the
container's or the instance's role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from frame.contract.sources import RemoteFile, RemoteModel, SourceChangedError, SourceContext, SourceError

_CHUNK = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_NO_SUCH = {
    "403",
    "404",
    "AccessDenied",
    "NoSuchBucket",
    "NoSuchKey",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
}
_CHANGED = {"412", "416", "PreconditionFailed", "InvalidRange"}


class S3Model(RemoteModel):
    """An object, or the objects below a prefix."""

    def __init__(self, url: str, context: SourceContext) -> None:
        parts = urlsplit(url)
        self._bucket, self._key = parts.netloc, unquote(parts.path).lstrip("/")
        if not self._bucket:
            raise SourceError(f"{url}: expected s3://bucket/key")
        self._keys: dict[str, str] = {}
        config = Config(
            connect_timeout=context.timeout,
            read_timeout=context.timeout,
            retries={"total_max_attempts": 1},  # they are counted where downloads go on
        )
        try:
            self._client = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:  # no region, or an endpoint that is no url
            raise SourceError(f"s3://{self._bucket}: {error}") from error

    def files(self) -> Sequence[RemoteFile]:
        """List the object, or what is below the prefix."""
        try:
            return self._found()
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, f"s3://{self._bucket}/{self._key}") from error

    def _found(self) -> Sequence[RemoteFile]:
        prefix = self._key.rstrip("/")
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        below = f"{prefix}/" if prefix else ""
        found: list[RemoteFile] = []
        for item in (item for page in pages for item in page.get("Contents", ())):
            key = item["Key"]
            if key == self._key and not key.endswith("/"):
                return [self._file(key.rsplit("/", 1)[-1], item)]
            if key.startswith(below) and not key.endswith("/"):
                found.append(self._file(key[len(below) :], item))
        if not found:
            raise SourceError(f"s3://{self._bucket}/{self._key}: there is no such object, nor any below it")
        return found

    def _file(self, path: str, item: dict[str, Any]) -> RemoteFile:
        self._keys[path] = item["Key"]
        head = self._client.head_object(Bucket=self._bucket, Key=item["Key"])
        tag = head["ETag"].strip('"')
        is_digest = _MD5.fullmatch(tag) and head.get("ServerSideEncryption") in {None, "AES256"}
        return RemoteFile(
            path=path,
            size_bytes=head["ContentLength"],
            version=head["ETag"],
            checksums={"md5": tag} if is_digest and "SSECustomerAlgorithm" not in head else {},
        )

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Read an object, as long as its ETag is the one that was listed."""
        key = self._keys[file.path]
        ranged = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, IfMatch=file.version, **ranged)
            if answer["ETag"] != file.version:
                raise SourceChangedError(key)
            yield from answer["Body"].iter_chunks(_CHUNK)
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, f"s3://{self._bucket}/{key}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _translated(error: ClientError | BotoCoreError, what: str) -> Exception:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return SourceError(f"{what}: {error}")
    if not isinstance(error, ClientError):
        return OSError(f"{what}: {type(error).__name__}: {error}")
    facts = error.response.get("Error", {})
    code = str(facts.get("Code", ""))
    if code in _CHANGED:
        return SourceChangedError(what)
    message = f"{what}: {code} {facts.get('Message', '')}".strip()
    return SourceError(message) if code in _NO_SUCH else OSError(message)
