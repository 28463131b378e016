"""Make a Ray session safe, without importing Ray: with a token, and no code of the current folder.

Ray's processes listen on every network interface, and whoever reaches them may run code, unless
they ask for a token.
"""

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path

from fame.beside import ROOT


@contextlib.contextmanager
def secured(*, local: bool) -> Generator[None]:
    """Begin a session in here: a ``local`` one gets a token of its own, another must have one.

    Ray lets its workers import from the folder where the session began: here, that of this package.
    Raise ``ValueError`` where tokens are switched off or missing.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise ValueError(
            "RAY_AUTH_MODE is not token: whoever reaches Ray's ports could run code; unset "
            "it, or set it to token"
        )
    if not _has_token():
        if not local:
            raise ValueError(
                "this Ray cluster has no token here, so whoever reaches its ports may run code: "
                "make one (ray get-auth-token --generate), copy ~/.ray/auth_token to every machine "
                "and start the cluster with RAY_AUTH_MODE=token"
            )
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.chdir(ROOT):
        yield


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(path) if path else Path.home() / ".ray" / "auth_token").is_file()
    except (OSError, RuntimeError):  # no home, or not ours to look into
        return False
