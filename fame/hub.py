"""Encoders that travel: fetched from and pushed to a model hub, by huggingface-hub.

An address is ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``. What is fetched is one safetensors
file of one commit, of bounded size; its checksum is compared when it is loaded. No code and no
pickle of a repository is ever read.
"""

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fame.archive import RUN_CHECKPOINT, CheckpointError
from fame.files import is_there

WEIGHTS = "encoder.safetensors"
LARGEST = 8 << 30  # bytes
# A Path makes one slash of two. No folder of that name can be there: an address is looked up last.
_ADDRESS = re.compile(r"hf:/{1,2}(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@([\w./-]{1,255}))?", re.ASCII)
_REFUSED = (401, 403)
_NEEDS = "hf:// needs huggingface-hub: pip install huggingface-hub"


def is_address(path: str | Path) -> bool:
    """Return whether a path is the address of a repository, and no file or folder.

    ``hf:FOLDER``, which is a network of transformers, is none.
    """
    found = _ADDRESS.fullmatch(str(path))
    return found is not None and not is_there(Path(str(path).removeprefix("hf:")))


def without_folders(name: str) -> str:
    """Return the name of a checkpoint or network without the folders of a person's machine, for
    what is published.

    ``/home/me/runs/fame/checkpoints/last.pt`` is ``fame``, ``hf:/data/videomae@w.pt`` is
    ``hf:videomae@w.pt``; an address, and a name of at most two parts, stay as they are.
    """
    if is_address(name):
        return name
    return "".join(_last_part(part) for part in re.split(r"([:@])", name))


def _last_part(path: str) -> str:
    parts = list(Path(path).parts)
    if len(parts) <= 2 and not path.startswith(("/", "~", "..")):
        return path
    # The last checkpoint of a run stands for the run.
    of_run = tuple(parts[-2:]) == RUN_CHECKPOINT.parts and len(parts) > 2
    return parts[-3] if of_run else parts[-1]


def fetch(address: str | Path) -> Path:
    """Return the weights of an address, from the cache where that commit was fetched before.

    Raise :class:`CheckpointError` where there are none, or too large a file, or no connection.
    """
    found = _ADDRESS.fullmatch(str(address))
    if found is None:
        raise CheckpointError(f"{address} is no address: write hf://ORG/NAME or with @REVISION")
    name, revision = found.groups()
    shown, hub = f"hf://{name}" + (f"@{revision}" if revision else ""), _hub()
    where = {"endpoint": _endpoint()}
    try:
        if not os.environ.get("HF_HUB_OFFLINE"):
            url = hub.hf_hub_url(name, WEIGHTS, revision=revision, **where)
            there = hub.get_hf_file_metadata(url, **where)
            if there.size is None or there.size > LARGEST:
                raise CheckpointError(f"{shown}: {WEIGHTS} has {there.size} bytes, over {LARGEST}")
            revision = there.commit_hash or revision
        path = Path(hub.hf_hub_download(name, WEIGHTS, revision=revision, **where))
    except CheckpointError:
        raise
    except Exception as error:  # a cut connection is an error of the HTTP library under the hub's
        raise CheckpointError(f"{shown}: no {WEIGHTS} to be had: {_why(error)}") from error
    return path


def check_name(name: str) -> None:
    """Raise ``ValueError`` for what is no name of a repository."""
    if not _ADDRESS.fullmatch(f"hf://{name}") or "@" in name:
        raise ValueError(f"{name} is no name of a repository: write ORG/NAME")


def push(files: Sequence[Path], name: str, *, private: bool) -> str:
    """Upload files to the repository ``name``, made if it is not there, as one commit; return its
    address.

    The token is that of ``hf auth login`` or of ``HF_TOKEN``. Raise ``ValueError`` where it is
    refused.
    """
    hub = _hub()
    api = hub.HfApi(endpoint=_endpoint())
    added = [hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, added, commit_message="Encoder and card")
    except Exception as error:  # as above
        raise ValueError(f"{name}: cannot be pushed: {_why(error)}") from error
    return f"hf://{name}@{done.oid}"


def _why(error: Exception) -> str:
    """Return an error of the hub as one line: what is wrong stands on its second or third."""
    text = " ".join(str(error).split()).split(" For more information")[0][:300]
    text = text or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{text} (log in with `hf auth login`, or set HF_TOKEN)" if status in _REFUSED else text


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(f"{_NEEDS} ({error})") from error


def _endpoint() -> str | None:
    """Return the address of the server, read from the environment at each call."""
    return os.environ.get("HF_ENDPOINT")
