"""Ray sessions: none without a token, none that imports from the current folder, none that needs a
home.
"""

import os
from pathlib import Path

import pytest

from fame.beside import ROOT
from fame.sessions import secured


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person who never made one; the environment is as before when the test ends."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_local_session_draws_a_token_and_looks_into_no_folder_but_ours(tmp_path: Path):
    before = Path.cwd()
    with secured(local=True):
        assert Path.cwd() == ROOT
    assert Path.cwd() == before
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_a_token_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no token here"), secured(local=False):
        pass
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    with secured(local=False):
        assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize("local", [True, False])
def test_tokens_switched_off_are_refused(monkeypatch: pytest.MonkeyPatch, local: bool):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="RAY_AUTH_MODE is not token"), secured(local=local):
        pass
