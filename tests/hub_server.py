"""A small Hugging Face Hub in this process: model repositories, over HTTP, for one token.

It speaks what huggingface_hub asks for to create a repository, to commit to it and to download from
it. Files are kept in memory; every commit has a revision of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_test"
Files = dict[str, bytes]


class Hub:
    """What the server holds: repositories by name, each with its commits, the latest last."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.claimed_size: int | None = None
        self.endpoint = ""

    def files(self, name: str, revision: str = "main") -> Files | None:
        """Files of a commit, or None if there is no such revision."""
        commits = self.repositories[name]["commits"]
        if revision == "main":
            return commits[-1][1] if commits else {}
        return next((files for sha, files in commits if sha == revision), None)

    def commit(self, name: str, files: Files) -> str:
        """Add a commit; gives its revision."""
        commits = self.repositories[name]["commits"]
        sha = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits.append((sha, files))
        return sha

    def sha(self, name: str, revision: str = "main") -> str:
        commits = self.repositories[name]["commits"]
        return commits[-1][0] if revision == "main" and commits else revision


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, *, body: bool) -> None:
        path = self._path()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, revision = found[1], found[2] or "main"
            if (files := self._found(name, revision)) is None:
                return
            size = self.hub.claimed_size
            siblings = [{"rfilename": f, "size": size or len(c)} for f, c in files.items()]
            private = self.hub.repositories[name]["private"]
            about = {"id": name, "private": private, "siblings": siblings}
            self._json(about | {"sha": self.hub.sha(name, revision)})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self._found(found[1], found[2])
            if files is not None and found[3] in files:
                self._file(files[found[3]], self.hub.sha(found[1], found[2]), body=body)
        else:
            self._error(404, "EntryNotFound")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path()
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("visibility") == "private"
            self.hub.repositories[name] = {"private": private, "commits": []}
            self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._json({"files": modes})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._commit(found[1], content)
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, name: str, content: bytes) -> None:
        lines = [json.loads(line) for line in content.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != self.hub.sha(name):
            self._error(412, "", "A commit has happened since")
            return
        files = dict(self.hub.files(name) or {})
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            else:
                files[path] = base64.b64decode(line["value"]["content"])
        sha = self.hub.commit(name, files)
        url = f"{self.hub.endpoint}/{name}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha, "success": True})

    def _path(self) -> str:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _found(self, name: str, revision: str) -> Files | None:
        """The files, or None after an answer that there are none."""
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        known = self.hub.repositories.get(name)
        if known is None or (known["private"] and not allowed):
            self._error(404, "RepoNotFound")
            return None
        files = self.hub.files(name, revision)
        if files is None:
            self._error(404, "RevisionNotFound")
        return files

    def _file(self, content: bytes, sha: str, *, body: bool) -> None:
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._answer(200, content, {"ETag": etag, "X-Repo-Commit": sha}, body=body)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str = "not there") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers at its `endpoint`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
