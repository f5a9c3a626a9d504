"""A bucket of Google Cloud Storage on loopback: as much of its JSON API as four clients ask for.

gcsfs (what jaxllm and Orbax read and write through), tensorstore (arrays), google-cloud-cpp (the
records of prepared data) and google-cloud-storage (TensorBoard's files). Objects are immutable and
whole as there: what is not finished is not seen, and there is no append. Reference: https://cloud.google.com/storage/docs/json_api/v1.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "fake-bucket"
TIME = "2026-01-01T00:00:00.000Z"
Answer = tuple[int, bytes | dict, dict[str, str]]  # status, content, headers


class Objects:
    """The objects by name: content and generation."""

    def __init__(self):
        self.content: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.generations = itertools.count(1_700_000_000_000_000)
        self.lock = threading.RLock()

    def put(self, name: str, content: bytes) -> dict:
        self.content[name] = content, next(self.generations)
        return self.resource(name)

    def resource(self, name: str) -> dict:
        import google_crc32c

        content, generation = self.content[name]
        crc = google_crc32c.value(content).to_bytes(4, "big")
        return {
            "kind": "storage#object", "id": f"{BUCKET}/{name}/{generation}", "name": name,
            "bucket": BUCKET, "generation": str(generation), "metageneration": "1",
            "size": str(len(content)), "timeCreated": TIME, "updated": TIME,
            "contentType": "application/octet-stream", "etag": str(generation),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
        }

    def listed(self, query: dict[str, str]) -> dict:
        prefix, cut = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        names = sorted(n for n in self.content if n.startswith(prefix) and start <= n < end)
        items, folders = [], set()
        for name in names:
            head, sign, _ = name[len(prefix):].partition(cut) if cut else (name, "", "")
            if sign:
                folders.add(prefix + head + sign)
            else:
                items.append(self.resource(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}


class Handler(BaseHTTPRequestHandler):
    """A request."""

    protocol_version = "HTTP/1.1"
    objects: Objects

    def log_message(self, *arguments):
        """Nothing is shown."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self._body()
        with self.objects.lock:  # not while it is sent: a client may be slow to take it
            status, content, headers = self._answer(url.path, query, body)
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **headers}
        with contextlib.suppress(ConnectionError):  # a client that has gone
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        if path.startswith("/batch"):
            return self._batch(body)
        if path.startswith("/upload"):
            return self._upload(query, body)
        if found := re.search(r"/b/[^/]+/o/([^/]+)(?:/(\w+)To/(?:b/[^/]+/)?o/([^/]+))?$", path):
            return self._object(unquote(found[1]), found[2], unquote(found[3] or ""), query)
        if path.endswith("/o"):
            return 200, self.objects.listed(query), {}
        return 200, {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "location": "US",
                     "storageClass": "STANDARD"}, {}

    def _refusal(self, name: str, query: dict[str, str]) -> Answer | None:
        """The answer where a condition on the generation does not hold."""
        now = self.objects.content.get(name, (b"", 0))[1]
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != now:
            return 412, {"error": {"code": 412, "message": "conditionNotMet"}}, {}
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == now and now:
            return 304, b"", {}
        return None

    def _object(self, name: str, verb: str | None, target: str, query: dict[str, str]) -> Answer:
        known = self.objects.content
        if name not in known:
            return 404, {"error": {"code": 404, "message": f"No such object: {name}"}}, {}
        if refusal := self._refusal(name, query):
            return refusal
        if verb:
            resource = self.objects.put(target, known[name][0])
            if verb == "move":
                del known[name]
            return 200, resource if verb != "rewrite" else {
                "kind": "storage#rewriteResponse", "done": True, "resource": resource,
            }, {}
        if self.command == "DELETE":
            del known[name]
            return 204, b"", {}
        if query.get("alt") == "media":
            return self._media(*known[name])
        return 200, self.objects.resource(name), {}

    def _media(self, content: bytes, generation: int) -> Answer:
        headers = {"x-goog-generation": str(generation), "ETag": str(generation),
                   "Content-Type": "application/octet-stream"}
        cut = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not cut or not content:
            return 200, content, headers
        size = len(content)
        first = int(cut[1]) if cut[1] else max(size - int(cut[2]), 0)
        last = min(int(cut[2]), size - 1) if cut[1] and cut[2] else size - 1
        if first >= size:
            return 416, b"", headers
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, content[first : last + 1], headers

    def _upload(self, query: dict[str, str], body: bytes) -> Answer:
        if "upload_id" in query:
            return self._chunk(query["upload_id"], body)
        if query["uploadType"] == "media":
            name, content = query["name"], body
        elif query["uploadType"] == "multipart":
            head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
            about, media = BytesParser().parsebytes(head + body).get_payload()
            about = json.loads(about.get_payload(decode=True))
            name, content = about.get("name") or query["name"], media.get_payload(decode=True)
        else:
            about = json.loads(body or b"{}")
            upload = str(next(self.objects.generations))
            self.objects.uploads[upload] = query.get("name") or about["name"], b""
            host = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            return 200, {}, {"Location": f"{host}?uploadType=resumable&upload_id={upload}"}
        return self._refusal(name, query) or (200, self.objects.put(name, content), {})

    def _chunk(self, upload: str, body: bytes) -> Answer:
        name, before = self.objects.uploads[upload]
        content = before + body
        self.objects.uploads[upload] = name, content
        if self.headers.get("Content-Range", "").endswith("/*"):
            return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"}
        return 200, self.objects.put(name, content), {}

    def _batch(self, body: bytes) -> Answer:
        parts = []
        for line in re.findall(rb"^DELETE (\S+)", body, re.MULTILINE):
            name = unquote(urlsplit(line.decode()).path.rpartition("/o/")[2])
            status = "204 No Content" if self.objects.content.pop(name, None) else "404 Not Found"
            parts.append(f"--part\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n"
                         "Content-Length: 0\r\n\r\n\r\n")
        content = ("".join(parts) + "--part--\r\n").encode()
        return 200, content, {"Content-Type": "multipart/mixed; boundary=part"}


class Server(ThreadingHTTPServer):
    """Threads that end with the process; a client that has gone is no error."""

    daemon_threads = True

    def handle_error(self, request, address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Objects, dict[str, str]]]:
    """The objects of the bucket while it is there, and the environment that clients find it by."""
    objects = Objects()
    server = Server(("127.0.0.1", 0), type("BucketHandler", (Handler,), {"objects": objects}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    try:
        yield objects, {
            "STORAGE_EMULATOR_HOST": place, "CLOUD_STORAGE_EMULATOR_ENDPOINT": place,
            "TENSORSTORE_GCS_HTTP_URL": place,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "GOOGLE_CLOUD_PROJECT": "none",
            "GOOGLE_CLOUD_DISABLE_DIRECT_PATH": "1", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
