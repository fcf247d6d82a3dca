"""A small S3 server in the test process: enough of the protocol to read, list and be refused.

moto would do more, and needs botocore, whose python-dateutil is older than the one we pin.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY = "TESTKEY"
DATE = "2026-11-21T00:00:00.000Z"


@dataclass
class Bucket:
    """The objects of one bucket, and the requests that the server got."""

    name: str = "bucket"
    port: int = 0
    secret: bool = True  # whether a key is asked for, and keys are listed
    secret_key: str = KEY
    broken: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder into the bucket; returns its URL."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.objects[f"{prefix}/{file.relative_to(folder)}"] = file.read_bytes()
        return f"s3://{self.name}/{prefix}"

    def listing(self, query: dict[str, list[str]]) -> str:
        """ListObjectsV2, two keys a page so that pages are tested."""
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        rows, common = [], set()
        for key, data in sorted(self.objects.items()):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix) or key <= after:
                continue
            if delimiter and delimiter in rest:
                common.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                rows.append((key, data))
        page, more = rows[:2], len(rows) > 2
        body = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified>"
            f"<ETag>&quot;{md5(data).hexdigest()}&quot;</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in page
        )
        body += "".join(
            f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in sorted(common)
        )
        if more:
            body += f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>"
        return (
            f"<ListBucketResult><Name>{self.name}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>2</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{body}</ListBucketResult>"
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        self.bucket.requests.append(f"{self.command} {key or '?' + url.query}")
        signed = self.headers.get("Authorization", "")
        if self.bucket.broken:
            self.answer(503, error("SlowDown"))
        elif self.bucket.secret and f"Credential={self.bucket.secret_key}/" not in signed:
            self.answer(403, error("AccessDenied"))
        elif name != self.bucket.name:
            self.answer(404, error("NoSuchBucket"))
        elif not key and self.bucket.secret:
            self.answer(200, self.bucket.listing(parse_qs(url.query)).encode())
        elif key not in self.bucket.objects:
            self.answer(404, error("NoSuchKey"))
        else:
            self.answer_range(self.bucket.objects[key])

    def answer_range(self, data: bytes) -> None:
        unit, _, span = self.headers.get("Range", "").partition("=")
        if not unit:
            return self.answer(200, data)
        first, _, last = span.partition("-")
        low = int(first) if first else max(0, len(data) - int(last))
        high = min(int(last) + 1, len(data)) if first and last else len(data)
        content = f"bytes {low}-{high - 1}/{len(data)}"
        return self.answer(206, data[low:high], {"Content-Range": content})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{md5(body).hexdigest()}"')
        self.send_header("Last-Modified", formatdate(usegmt=True))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@contextmanager
def serving(*, secret: bool = True) -> Iterator[Bucket]:
    """A bucket behind a server; without `secret` it is a plain web server that lists nothing."""
    bucket = Bucket(secret=secret)
    handler = type("Handler", (Handler,), {"bucket": bucket})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        bucket.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield bucket
        finally:
            server.shutdown()
            thread.join()
