"""`hf://owner/name[@revision]`: a repository of a Hugging Face hub, or of its cache. Needs huggingface_hub.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from frame.contract.sources import RemoteFile, RemoteModel, SourceContext, SourceError
from frame.sources.http import HttpFiles

_CHUNK = 1 << 20
_SAFE, _OTHERS = ".safetensors", (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot")
"""The same weights in other formats are not fetched beside safetensors."""


class HubModel(RemoteModel):
    """A repository at one revision."""

    def __init__(self, url: str, context: SourceContext) -> None:
        parts = urlsplit(url)
        name, _, revision = unquote(f"{parts.netloc}{parts.path}").strip("/").partition("@")
        self._repository, self._revision = name, revision or "main"
        self._context = context
        token = get_token()
        if "HF_ENDPOINT" in context.environ:  # whoever started the server chose that hub
            context = replace(context, allows_private=True)
        self._files = HttpFiles(context, {"authorization": f"Bearer {token}"} if token else {})
        self._commit = ""
        self._cached: Path | None = None

    def files(self) -> Sequence[RemoteFile]:
        """List the repository; the local cache stands in for a hub that cannot be reached."""
        try:
            if constants.HF_HUB_OFFLINE:
                return self._list_cached("HF_HUB_OFFLINE is set")
            return self._list_hub()
        except HFValidationError as error:
            raise SourceError(f"hf://{self._repository}: {error}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            message = f"hf://{self._repository}@{self._revision}: {error}"
            raise (SourceError if status in {401, 403, 404} else OSError)(message) from error
        except SourceError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever its HTTP client raises for a hub out of reach
            return self._list_cached(f"{type(error).__name__}: {error}")

    def _list_hub(self) -> Sequence[RemoteFile]:
        info = HfApi().model_info(
            self._repository, revision=self._revision, files_metadata=True, timeout=self._context.timeout
        )
        self._commit = info.sha or self._revision
        found = [
            RemoteFile(
                path=item.rfilename,
                size_bytes=item.size,
                version=item.blob_id or self._commit,
                checksums={"sha256": item.lfs.sha256} if item.lfs else {},
            )
            for item in info.siblings or ()
        ]
        return _wanted(found)

    def _list_cached(self, why: str) -> Sequence[RemoteFile]:
        try:
            folder = Path(snapshot_download(self._repository, revision=self._revision, local_files_only=True))
        except LocalEntryNotFoundError as error:
            message = (
                f"hf://{self._repository}@{self._revision} is not cached here, and the hub is out of reach"
            )
            raise SourceError(f"{message} ({why})") from error
        self._cached = folder
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return _wanted(
            [
                RemoteFile(
                    path=path.relative_to(folder).as_posix(),
                    size_bytes=path.stat().st_size,
                    version=f"{folder.name} {path.resolve().name}",
                )
                for path in paths
            ]
        )

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Read a file of the commit that was listed, which never changes."""
        if self._cached is None:
            url = hf_hub_url(self._repository, file.path, revision=self._commit)
            yield from self._files.read(url, offset, "")
            return
        with (self._cached / file.path).open("rb") as stream:
            stream.seek(offset)
            while chunk := stream.read(_CHUNK):
                yield chunk

    def close(self) -> None:
        """Close the connections."""
        self._files.close()


def _wanted(found: list[RemoteFile]) -> list[RemoteFile]:
    """Leave hidden files out, and weights that are there as safetensors."""
    shown = [
        item for item in found if not any(part.startswith(".") for part in PurePosixPath(item.path).parts)
    ]
    if not any(item.path.endswith(_SAFE) for item in shown):
        return shown
    return [item for item in shown if not item.path.endswith(_OTHERS)]
