"""A bucket in this process: Google Cloud Storage's JSON API, as gcsfs and tensorstore use it.

`serve()` gives a `Bucket`, whose `environment` makes processes take it for the cloud. `faults` says
what goes wrong: a function (method, object name) → an HTTP status to answer with, or None.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

Fault = Callable[[str, str], int | None]


class Bucket:
    """Objects by name, and what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.generations: dict[str, int] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.generation = 0
        self.lock = threading.RLock()
        self.faults: Fault = lambda method, name: None
        self.refused: list[tuple[int, str, str]] = []  # what `faults` answered
        self.environment: dict[str, str] = {}

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        with self.lock:
            self.generation += 1
            self.objects[name], self.generations[name] = bytes(data), self.generation
            return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        data = self.objects[name]
        digest = base64.b64encode(hashlib.md5(data).digest()).decode()
        generation = str(self.generations[name])
        return {
            **{"kind": "storage#object", "bucket": "bucket", "name": name, "md5Hash": digest},
            **{"size": str(len(data)), "generation": generation, "metageneration": "1"},
            **{"timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"},
            **{"etag": generation, "contentType": "application/octet-stream"},
        }

    def listed(self, *, prefix: str, delimiter: str) -> dict[str, Any]:
        items, prefixes = [], []
        with self.lock:
            for name in sorted(self.objects):
                if not name.startswith(prefix):
                    continue
                inside = name[len(prefix) :]
                if delimiter and delimiter in inside:
                    prefixes.append(prefix + inside.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.describe(name))
        return {
            "kind": "storage#objects",
            "items": items,
            "prefixes": list(dict.fromkeys(prefixes)),
        }

    def names(self, prefix: str) -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients give up requests, too
            super().handle()

    def reply(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        method = self.command
        name = query.get("name", "")
        if "o" in parts and parts.index("o") + 1 < len(parts):
            name = parts[parts.index("o") + 1]
        if (
            not name
            and body[:1] in (b"{", b"-")
            and (found := re.search(rb'"name": ?"([^"]*)"', body))
        ):
            name = found[1].decode()
        if (status := self.bucket.faults(method, name)) is not None:
            self.bucket.refused.append((status, method, name))
            self.reply(status, {"error": {"code": status, "message": f"injected {status}"}})
            return
        with self.bucket.lock:
            if parts[0] == "batch":
                self.batch(body)
            elif parts[0] == "upload":
                self.upload(name, query, body)
            elif method == "POST" and len(parts) > 6 and "rewriteTo" in parts:
                self.rewrite(name, parts[-1])
            elif method == "POST" and "moveTo" in parts:
                self.rewrite(name, parts[-1], move=True)
            elif parts[-1] == "o":
                self.reply(
                    200,
                    self.bucket.listed(
                        prefix=query.get("prefix", ""), delimiter=query.get("delimiter", "")
                    ),
                )
            elif name:
                self.item(method, name, query)
            else:
                self.reply(200, {"kind": "storage#bucket", "name": "bucket", "location": "HERE"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def item(self, method: str, name: str, query: dict[str, str]) -> None:
        if name not in self.bucket.objects:
            self.reply(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        elif method == "DELETE":
            del self.bucket.objects[name]
            self.reply(204)
        elif query.get("alt") == "media":
            data = self.bucket.objects[name]
            headers = {
                "x_goog_generation": str(self.bucket.generations[name]),
                "ETag": str(self.bucket.generations[name]),
            }
            if given := self.headers.get("Range"):
                first, last = re.match(r"bytes=(\d+)-(\d*)", given).groups()  # type: ignore[union-attr]
                end = min(int(last) + 1 if last else len(data), len(data))
                if int(first) >= len(data):
                    self.reply(416)
                    return
                headers["Content_Range"] = f"bytes {first}-{end - 1}/{len(data)}"
                self.reply(206, data[int(first) : end], **headers)
            else:
                self.reply(200, data, **headers)
        else:
            self.reply(200, self.bucket.describe(name))

    def upload(self, name: str, query: dict[str, str], body: bytes) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != self.bucket.generations.get(name, 0) * (
            name in self.bucket.objects
        ):
            self.reply(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        elif "upload_id" in query:
            name, data = self.bucket.uploads[query["upload_id"]]
            data += body
            if (self.headers.get("Content-Range") or "").endswith("/*"):
                self.reply(308, Range=f"bytes=0-{len(data) - 1}")
            else:
                self.reply(200, self.bucket.put(name, data))
        elif query.get("uploadType") == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            _, _, data, _ = body.split(f"--{boundary[1]}".encode(), 3)
            data = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[1]
            self.reply(200, self.bucket.put(name, data.removesuffix(b"\n").removesuffix(b"\r")))
        elif query.get("uploadType") == "resumable":
            key = str(len(self.bucket.uploads))
            self.bucket.uploads[key] = (name, bytearray())
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/bucket/o"
            self.reply(200, Location=f"{where}?upload_id={key}&uploadType=resumable")
        else:
            self.reply(200, self.bucket.put(name, body))

    def rewrite(self, name: str, target: str, *, move: bool = False) -> None:
        if name not in self.bucket.objects:
            self.reply(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
            return
        made = self.bucket.put(target, self.bucket.objects[name])
        if move:
            del self.bucket.objects[name]
        self.reply(200, made if move else {"done": True, "resource": made})

    def batch(self, body: bytes) -> None:
        answers = []
        for found in re.finditer(rb"DELETE (\S+) HTTP", body):
            name = urllib.parse.unquote(found[1].decode().split("/o/", 1)[1].split("?")[0])
            there = self.bucket.objects.pop(name, None) is not None
            status = "204 No Content" if there else "404 Not Found"
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n"
            )
        data = "\r\n".join([*answers, "--batch--"]).encode()
        self.reply(200, data, Content_Type="multipart/mixed; boundary=batch")


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
    """A bucket called "bucket" for as long as the block runs."""
    bucket = Bucket()
    handler = type("BucketHandler", (Handler,), {"bucket": bucket})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        bucket.environment = {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # tensorstore looks for no credentials
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # zonal buckets, through gRPC
        }
        yield bucket
        server.shutdown()
