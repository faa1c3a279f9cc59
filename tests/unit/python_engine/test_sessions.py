"""Sessions in files: created, found again by another process's manager, expired, closed."""

from __future__ import annotations

import stat
import time

import numpy as np
import pytest
from djl_python import SessionManager

UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def properties(tmp_path):
    return {"sessions_path": str(tmp_path / "sessions"), "sessions_expiration": "60"}


def test_values_are_found_by_another_manager(properties):
    session = SessionManager(properties).create_session()
    session.put("history/1", ["hello"])
    found = SessionManager(properties).get_session(session.session_id)
    assert found.get("history/1") == ["hello"]
    assert found.get("absent", 3) == 3
    assert 0 < found.expiration_ts - time.time() <= 60


def test_arrays_live_in_the_sessions_folder(properties):
    session = SessionManager(properties).create_session()
    session.get_as_numpy("state", (2, 3), create=True)[1] = 5
    found = SessionManager(properties).get_session(session.session_id).get_as_numpy("state", (2, 3))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 0], [5, 5, 5]]


@pytest.mark.parametrize("session_id", [None, "", "NEW_SESSION"])
def test_no_id_is_no_session(properties, session_id):
    assert SessionManager(properties).get_session(session_id) is None


@pytest.mark.parametrize("session_id", [UNKNOWN, "../etc", "x"])
def test_unknown_sessions_are_not_found(properties, session_id):
    with pytest.raises(ValueError, match=f"session not found: {session_id}"):
        SessionManager(properties).get_session(session_id)


@pytest.mark.parametrize(
    ("session_id", "said"), [(None, "invalid"), ("../etc", "invalid"), (UNKNOWN, "not found")]
)
def test_only_sessions_can_be_closed(properties, session_id, said):
    with pytest.raises(ValueError, match=said):
        SessionManager(properties).close_session(session_id)


def test_a_closed_session_is_gone(properties):
    manager = SessionManager(properties)
    session = manager.create_session()
    manager.close_session(session.session_id)
    assert not session.files_path.exists()
    with pytest.raises(ValueError, match="session not found"):
        manager.get_session(session.session_id)


def test_an_expired_session_is_none_and_is_removed_when_the_next_begins(properties):
    old = SessionManager({**properties, "sessions_expiration": "-1"}).create_session()
    manager = SessionManager(properties)
    assert manager.get_session(old.session_id) is None
    manager.create_session()
    assert not old.files_path.exists()


@pytest.mark.parametrize("key", ["", ".", ".."])
def test_keys_cannot_leave_the_folder(properties, key):
    session = SessionManager(properties).create_session()
    with pytest.raises(ValueError, match="invalid session key"):
        session.put(key, 1)
    session.put("../x", 1)
    assert (session.files_path / "..-x").is_file()


def test_the_folder_is_private_and_a_shared_one_is_refused(properties, tmp_path):
    SessionManager(properties)
    assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700
    (tmp_path / "sessions").chmod(0o777)
    with pytest.raises(PermissionError, match="writable by others"):
        SessionManager(properties)
