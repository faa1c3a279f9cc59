"""Sessions of stateful handlers: a folder each in shared memory, found again by the id that clients send."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXPIRATION_FILE = ".expiration_ts"
DEFAULT_EXPIRATION = 1200
"""Seconds; DJL Serving's default."""


class Session:
    """One client's values, a file per key. Values are pickled: only this server writes into the folder."""

    def __init__(self, session_id: str, expiration_ts: float, session_root: str) -> None:
        self.session_id = session_id
        self.expiration_ts = expiration_ts
        self.files_path = Path(session_root) / session_id

    def put(self, key: str, value: Any) -> None:
        """Keep a value; it replaces the key's earlier one at once or not at all."""
        path = self._path(key)
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_bytes(pickle.dumps(value))
        unfinished.replace(path)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value that `put` kept, or `default`."""
        path = self._path(key)
        return pickle.loads(path.read_bytes()) if path.is_file() else default  # noqa: S301  # our own files, mode 0700

    def get_as_numpy(self, key: str, shape: Any, dtype: Any = None, create: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Return an array that lives in the session's file (a writable memory map), float32 by default.

        `create` starts from zeros instead of what is there.
        """
        import numpy as np

        mode = "w+" if create else "r+"
        return np.memmap(self._path(key), dtype=dtype or np.float32, mode=mode, shape=shape)  # type: ignore[call-overload]  # mode is one of numpy's literals

    def remove(self) -> bool:
        """Delete all values; return whether there was such a session."""
        found = self.files_path.is_dir()
        shutil.rmtree(self.files_path, ignore_errors=True)
        return found

    def _path(self, key: str) -> Path:
        name = key.replace("/", "-")
        if name in {"", ".", ".."}:
            raise ValueError(f"invalid session key: {key!r}")
        return self.files_path / name


class SessionManager:
    """Creates, finds and closes sessions; those past their time are removed when the next one is created."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.expiration = int(properties.get("sessions_expiration") or DEFAULT_EXPIRATION)
        self.sessions_path = str(properties.get("sessions_path") or _default_path())
        if properties.get("sessions_s3url"):
            _log.warning("sessions_s3url_ignored: sessions are kept on this machine only")
        Path(self.sessions_path).mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = Path(self.sessions_path).stat()
        if owner.st_uid != os.getuid() or owner.st_mode & stat.S_IWOTH:
            raise PermissionError(f"{self.sessions_path}: must be ours and not writable by others")

    def create_session(self) -> Session:
        """Start a session with an id of its own."""
        self._remove_expired()
        session = Session(str(uuid.uuid4()), time.time() + self.expiration, self.sessions_path)
        session.files_path.mkdir(mode=0o700)
        (session.files_path / _EXPIRATION_FILE).write_text(repr(session.expiration_ts), encoding="ascii")
        return session

    def get_session(self, session_id: str | None) -> Session | None:
        """Return a session; None for no id, for `NEW_SESSION` and for one whose time is over.

        Raises:
            ValueError: there is no such session.
        """
        if not session_id or session_id == "NEW_SESSION":
            return None
        expiration = self._expiration_of(session_id) if _SESSION_ID.fullmatch(session_id) else None
        if expiration is None:
            raise ValueError(f"session not found: {session_id}")
        if expiration < time.time():
            return None
        return Session(session_id, expiration, self.sessions_path)

    def close_session(self, session_id: str | None) -> None:
        """End a session and delete its values.

        Raises:
            ValueError: the id is malformed, or there is no such session.
        """
        if not session_id or not _SESSION_ID.fullmatch(session_id):
            raise ValueError(f"invalid session_id: {session_id}")
        if not Session(session_id, 0.0, self.sessions_path).remove():
            raise ValueError(f"session not found: {session_id}")

    def _expiration_of(self, session_id: str) -> float | None:
        path = Path(self.sessions_path) / session_id / _EXPIRATION_FILE
        return float(path.read_text(encoding="ascii")) if path.is_file() else None

    def _remove_expired(self) -> None:
        for name in [path.name for path in Path(self.sessions_path).iterdir()]:
            expiration = self._expiration_of(name) if _SESSION_ID.fullmatch(name) else None
            if expiration is not None and expiration < time.time():
                Session(name, expiration, self.sessions_path).remove()


def _default_path() -> str:
    shared = Path("/dev/shm")  # noqa: S108  # memory that outlives the worker; the folder is private
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return str(root / f"frame_sessions_{os.getuid()}")
