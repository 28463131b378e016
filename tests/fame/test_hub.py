"""Encoders that travel, by a server of the hub's protocol in this process: what is pushed is what is loaded."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import fame
from fame import hub
from fame.archive import CheckpointError
from fame.export import export_encoder
from fame.hub import without_folders
from fame.models import build_encoder

pytest.importorskip("huggingface_hub")
NAME = "lab/encoder"
COMMIT = "5" * 40


class Handler(BaseHTTPRequestHandler):
    """Repositories in memory: those that were made, and the files of their only commit."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    made: list[dict[str, Any]]
    claimed: int | None  # a size that is not that of the file
    broken: int | None  # the status of every answer; 0 cuts the connection

    def parse_request(self) -> bool:
        """Answer as a broken server does, if it is one."""
        parsed = super().parse_request()
        if not parsed or self.broken is None:
            return parsed
        # A connection closed with a request half read is reset, and the answer with it.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.broken:
            self._send(b"oops", self.broken, Connection="close")  # else a client may use it again
        self.close_connection = True
        return False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer right":
            return self._send(b'{"error": "no"}', 401)
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            return self._send(json.dumps({"url": f"{self._root()}/{NAME}"}).encode())
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(json.dumps({"files": files}).encode())
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self._root()}/{NAME}/commit/{COMMIT}"
            return self._send(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())
        return self._send(b"{}")  # the check of a card's first lines

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place, _, file = self.path.removeprefix(f"/{NAME}/resolve/").partition("/")
        if file not in self.files or place not in ("main", COMMIT, "v1"):
            return self._send(b"", 404, **{"X-Error-Code": "EntryNotFound"})
        content = self.files[file]
        size = self.claimed or len(content)
        etag = hashlib.sha256(content).hexdigest()
        return self._send(content, **{"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, size=size)

    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _send(
        self, content: bytes, status: int = 200, size: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size or len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Mine(Handler):
        files, made, claimed, broken = {}, [], None, None

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listening.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache")
    )
    monkeypatch.setenv("HF_TOKEN", "right")
    yield Mine
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    model = {"name": "i3d", "options": {"width": 0.125}, "head": {"kind": "projection", "dim": 8}}
    network = build_encoder("i3d", head=model["head"], options=model["options"], seed=3)
    content = {"format": "fame-checkpoint/1", "model": model, "config": {}}
    torch.save({**content, "state": {"encoder_q": network.state_dict()}}, folder / "last.pt")
    export_encoder(folder / "last.pt", folder, formats=["safetensors"])
    return folder


def test_what_is_pushed_is_what_is_loaded(server: type[Handler], exported: Path) -> None:
    files = [exported / "encoder.safetensors", exported / "encoder.json"]
    assert hub.push(files, NAME, private=True) == f"hf://{NAME}@{COMMIT}"
    assert server.made[0]["name"] == "encoder" and server.made[0]["organization"] == "lab"
    assert server.files.keys() == {"encoder.safetensors", "encoder.json"}
    clips = torch.randint(0, 256, (1, 4, 32, 32, 3), generator=torch.Generator()).byte()
    wanted = fame.load(exported / "last.pt").features(clips)
    for address in (f"hf://{NAME}", Path(f"hf://{NAME}"), f"hf://{NAME}@v1"):
        assert torch.equal(fame.load(address).features(clips), wanted)


def test_what_was_fetched_is_there_without_a_connection(
    server: type[Handler], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["encoder.safetensors"] = (exported / "encoder.safetensors").read_bytes()
    fame.load(f"hf://{NAME}@{COMMIT}")
    server.files.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fame.load(f"hf://{NAME}@{COMMIT}").feature_dim == 128


def changed(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 0xFF]) + content[-2:]


@pytest.mark.parametrize(
    ("change", "claimed", "says"),
    [
        (None, None, f"^hf://{NAME}: no encoder.safetensors to be had: .*"),
        (bytes, hub.LARGEST + 1, "has 8589934593 bytes, over 8589934592"),
        (changed, None, "damaged: the weights are not what was saved"),
        (lambda content: b"\x80\x04.", None, "not a readable safetensors file"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    server: type[Handler], exported: Path, change: Any, claimed: int | None, says: str
) -> None:
    content = (exported / "encoder.safetensors").read_bytes()
    server.files = {"encoder.safetensors": change(content)} if change else {}
    server.claimed = claimed
    with pytest.raises(CheckpointError, match=says) as caught:
        fame.load(f"hf://{NAME}")
    assert "\n" not in str(caught.value)


def test_who_may_not_push_is_told(
    server: type[Handler], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(ValueError, match=f"^{NAME}: cannot be pushed: ") as caught:
        hub.push([exported / "encoder.json"], NAME, private=False)
    assert "\n" not in str(caught.value)
    for name in ("encoder", "a/b/c", "../x", "lab/en coder", "lab/encoder@v1"):
        with pytest.raises(ValueError, match="no name of a repository: write ORG/NAME"):
            hub.check_name(name)


@pytest.mark.parametrize(
    ("broken", "says"),
    [(500, "500 Internal Server Error"), (401, "401 .*log in with `hf auth login`"), (0, "dis")],
)
def test_a_server_that_fails_is_one_line(
    server: type[Handler], exported: Path, broken: int, says: str
) -> None:
    server.broken = broken
    with pytest.raises(
        CheckpointError, match=f"no encoder.safetensors to be had: .*{says}"
    ) as load:
        fame.load(f"hf://{NAME}")
    with pytest.raises(ValueError, match=f"^{NAME}: cannot be pushed: .*{says}") as push:
        hub.push([exported / "encoder.json"], NAME, private=False)
    assert "\n" not in f"{load.value}{push.value}"


@pytest.mark.parametrize("name", ["hf://lab", "hf://lab/a/b", "hf://lab/x@", "hf:/no/such/folder"])
def test_what_is_neither_folder_nor_address_is_one_line(name: str) -> None:
    for given in (name, Path(name)):
        with pytest.raises(
            CheckpointError, match=r"is neither a folder nor an address: write hf:F"
        ):
            fame.load(given)


def test_a_name_too_long_for_the_disk_is_one_line() -> None:
    for name in ("x" * 300 + ":network", "x" * 300 + ".py:network", "hf:/" + "x" * 300):
        with pytest.raises(CheckpointError) as caught:
            fame.load(name)
        assert "\n" not in str(caught.value)


def test_addresses_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.is_address("hf://lab/encoder") and hub.is_address(Path("hf://lab/encoder@v1"))
    assert not hub.is_address("hf:lab/encoder") and not hub.is_address("runs/pretrain")
    assert not hub.is_address(f"hf:{tmp_path}")
    assert not hub.is_address("hf:/usr/bin")  # a folder
    monkeypatch.setattr(hub, "import_module", lambda name: __import__("no_such_hub"))
    with pytest.raises(CheckpointError, match="needs huggingface-hub: pip install"):
        fame.load("hf://lab/encoder")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("runs/fame", "runs/fame"),
        ("data/runs/fame/checkpoints/last.pt", "fame"),
        ("/home/me/last.pt", "last.pt"),
        ("checkpoints/last.pt", "checkpoints/last.pt"),
        ("~/x.pt", "x.pt"),
        ("../x/epoch-0010.pt", "epoch-0010.pt"),
        ("hf:MCG-NJU/videomae-base", "hf:MCG-NJU/videomae-base"),
        ("hf://org/name@main", "hf://org/name@main"),
        ("hf:/org/name", "hf:/org/name"),
        ("hf:/data/big/videomae@/data/w.pt", "hf:videomae@w.pt"),
        ("package.module:function", "package.module:function"),
        ("untrained i3d {'width': 0.5}", "untrained i3d {'width': 0.5}"),
        ("", ""),
    ],
)
def test_what_is_published_names_no_folder(name: str, published: str) -> None:
    assert without_folders(name) == published
