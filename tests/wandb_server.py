"""As much of a Weights & Biases server as a run needs, on loopback: it takes records, files and artifacts, and keeps them.

wandb's own client and its own ``wandb sync`` speak to it, so what it has is what they sent: history lines are put at the
offset that the client says, and a run that is there already is told how far it is, as the real server does.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: A key of the right length, which is none.
KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Run:
    """What arrived of a run."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)

    def history(self) -> list[dict[str, Any]]:
        """Every row, in order."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        return json.loads(self.lines["wandb-summary.json"][-1])


class WandbServer:
    """A receiver that counts what it is asked.

    Attributes:
        url: for WANDB_BASE_URL.
        runs: by id.
        artifacts: by name without the version: the files' names and bytes.
        committed: names of artifacts that are whole.
        asked: names of all GraphQL operations, in order.
        everything: path and body of every request.
        hangs: answer nothing any more.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.committed: list[str] = []
        self.everything: list[bytes] = []
        self.hangs = threading.Event()
        self.over = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            of = server

        self._http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def take(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """What is answered to a request."""
        with self._lock:
            self.everything.append(path.encode() + b"\n" + body)
            if path == "/graphql":
                asked = json.loads(body)
                (name,) = re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[:1] or ["?"]
                self.asked.append(name)
                answer = getattr(self, f"_{name}", lambda variables: {})
                return {"data": answer(asked.get("variables") or {})}
            if found := re.fullmatch(r"/files/\w+/[\w-]+/([\w-]+)/file_stream", path):
                return self._stream(self.runs[found[1]], json.loads(body))
            if found := re.fullmatch(r"/run/([\w-]+)/(.+)", path):
                self.runs[found[1]].files[found[2]] = body
            if found := re.fullmatch(r"/artifact/([\w-]+)/(.+)", path):
                self.artifacts.setdefault(found[1], {})[found[2]] = body
            return {}

    def _stream(self, run: Run, told: dict[str, Any]) -> dict[str, Any]:
        for name, part in told.get("files", {}).items():
            lines = run.lines.setdefault(name, [])
            lines[part["offset"] :] = part["content"]
        if told.get("complete"):
            run.exit_codes.append(told["exitcode"])
        return {"exitcode": None, "limits": {}}

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        me = {"id": "me", "entity": "me", "username": "me", "email": None, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": me}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        model = {"id": "project", "name": given["project"], "entity": {"id": "me", "name": "me"}, "bucket": None}
        if run is not None:
            history, events = run.lines.get("wandb-history.jsonl", []), run.lines.get("wandb-events.jsonl", [])
            model["bucket"] = {
                "id": f"id-{run.name}",
                "name": run.name,
                "displayName": run.name,
                "summaryMetrics": run.lines.get("wandb-summary.json", ["{}"])[-1],
                "logLineCount": len(run.lines.get("output.log", [])),
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "historyTail": json.dumps(history[-1:]),
                "eventsTail": json.dumps(events[-1:]),
                "config": json.dumps(run.config),
                "tags": run.tags,
                "notes": None,
                "wandbConfig": json.dumps({"t": {}}),
            }
        return {"model": model}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given["name"] in self.runs
        run = self.runs.setdefault(given["name"], Run(given["name"]))
        run.config |= json.loads(given.get("config") or "{}")
        run.tags = given.get("tags") or run.tags
        project = {"id": "project", "name": given["project"], "entity": {"id": "me", "name": "me"}}
        bucket = {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": given.get("displayName") or run.name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", [])),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": not known}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["input"]["artifactCollectionName"]
        self.artifacts.setdefault(name, {})
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(given["artifactID"])}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(given["artifactManifestID"])}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        file = {"id": "file", "uploadUrl": f"{self.url}/artifact/{artifact}/wandb_manifest.json", "uploadHeaders": []}
        return {"id": artifact, "file": file}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        def node(file: dict[str, Any]) -> dict[str, Any]:
            url = f"{self.url}/artifact/{file['artifactID']}/{file['name']}"
            more = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}
            return {"storagePath": file["name"], "uploadUrl": url, **more}

        return {"createArtifactFiles": {"files": {"edges": [{"node": node(f)} for f in given["input"]["artifactFiles"]]}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.committed.append(given["artifactID"])
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle of a connection are no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def _body(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self) -> None:
        body = self._body()
        if self.of.hangs.is_set():
            self.of.over.wait()
            return
        said = json.dumps(self.of.take(self.command, self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_PUT = do_POST = _answer


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A receiver, which is gone afterwards."""
    server = WandbServer()
    try:
        yield server
    finally:
        server.close()
