"""A small stand-in of the Hugging Face hub on this machine, with a second server as its storage.

It lists, resolves and serves files of a model repository, serves plain files under `/files/`,
records every request, counts the bytes of answers, and fails as a test requires.
"""

import hashlib
import itertools
import json
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REPO = "lab/poyo"
# Variables of the user's environment that change where requests go.
UNSET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "https_proxy", "all_proxy")
FOREVER = 10**9
_numbers = itertools.count(0xC0FFEE << 80)
DATE = "Mon, 03 Mar 2025 10:00:00 GMT"


@dataclass
class Fault:
    """A failure of the next requests of one method whose path contains `path`."""

    path: str
    method: str = "GET"
    times: int = 1
    status: int | None = None  # answer this, with an empty body
    headers: dict = field(default_factory=dict)  # added to those of the answer; None removes one
    body: bytes | None = None  # in place of the file
    flip: int | None = None  # change the byte at this place of the file
    whole: bool = False  # ignore ranges
    cut: int | None = None  # close the connection after so many bytes of the body
    hold: int | None = None  # after so many bytes wait for `release` or for the end of the client


class Hub:
    """`with Hub() as hub:` runs both servers, which serve `hub.commits` and `hub.files`."""

    def __init__(self):
        self.branches = {}  # name -> commit
        self.commits = {}  # commit -> {path: content}
        self.files = {}  # name -> content
        self.token = None  # required when set
        self.faults = []
        self.requests = []  # (method, path, headers)
        self.sent = 0  # bytes of files, without the lists of repositories
        self.holding, self.release = threading.Event(), threading.Event()
        self._servers = [self._server(), self._server()]
        self.url, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def _server(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.handle_error = lambda *_: None  # clients are killed in the middle
        return server

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def push(self, files, branch="main"):
        """Commit files to a branch; return the commit."""
        commit = f"{next(_numbers):040x}"  # what is known of an earlier hub is not of this one
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def fail(self, path, **fault):
        self.faults.append(Fault(path, **fault))

    @property
    def asked(self):
        """Every request as one line: method, path and range."""
        return [
            " ".join([method, path, *filter(None, [headers.get("Range")])])
            for method, path, headers in self.requests
        ]

    def fault(self, method, path):
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return Fault(path)

    def find(self, path):
        """Return status, headers and content for a path."""
        kind, _, rest = path[1:].partition("?")[0].partition("/")
        if kind == "files":
            if rest not in self.files:
                return 404, {}, b""
            content = self.files[rest]
            return 200, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, content
        if kind == "storage":
            contents = [c for files in self.commits.values() for c in files.values()]
            return 200, {"ETag": f'"{rest[:8]}"'}, next(c for c in contents if stored_as(c) == rest)
        if kind == "api":
            return self._listed(rest)
        return self._resolve(path)

    def _listed(self, path):
        """Answer as the hub does for one revision of a repository, with the sizes of its files."""
        repo, _, revision = path.removeprefix("models/").partition("?")[0].partition("/revision/")
        commit = self.branches.get(unquote(revision), revision)
        if repo != REPO:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.commits[commit].items()
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files]
        return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()

    def _resolve(self, path):
        repo, _, rest = path[1:].partition("/resolve/")
        revision, _, name = map(unquote, rest.partition("/"))
        commit = self.branches.get(revision, revision)
        if repo != REPO:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name not in self.commits[commit]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = self.commits[commit][name]
        headers = {"X-Repo-Commit": commit}
        if name.endswith(".json"):  # in git itself: the tag is the name of its blob
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return 200, {**headers, "ETag": f'"{blob}"'}, content
        headers["Location"] = f"{self.storage}/storage/{sha256(content)}"
        headers["X-Linked-Etag"] = f'"{sha256(content)}"'
        headers["X-Linked-Size"] = str(len(content))
        return 302, headers, b""


def sha256(content):
    return hashlib.sha256(content).hexdigest()


stored_as = lru_cache(maxsize=64)(sha256)  # the storage looks for it at each request


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        self._serve()

    def do_GET(self):
        self._serve()

    def log_message(self, *_):
        pass

    def _serve(self):
        hub = self.hub
        hub.requests.append((self.command, self.path, dict(self.headers)))
        fault = hub.fault(self.command, self.path)
        status, headers, content = hub.find(self.path)
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.token and not known and "resolve" in self.path:
            status, headers, content = 401, {"X-Error-Code": "GatedRepo"}, b""
        if fault.status is not None:
            status, headers, content = fault.status, {}, b""
        if fault.body is not None:
            content = fault.body
        if fault.flip is not None:
            changed = bytearray(content)
            changed[fault.flip] ^= 1
            content = bytes(changed)
        status, headers, content = self._ranged(fault, status, headers, content)
        headers = {"Content-Length": str(len(content)), **headers, **fault.headers}
        self._send(fault, status, headers, content)

    def _ranged(self, fault, status, headers, content):
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, headers.get("ETag"), DATE)
        if not asked or status != 200 or fault.whole or not same:
            return status, headers, content
        start, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(start), min(int(last or FOREVER) + 1, len(content))
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        span = f"bytes {start}-{stop - 1}/{len(content)}"
        return 206, {**headers, "Content-Range": span}, content[start:stop]

    def _send(self, fault, status, headers, content):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if headers["Content-Length"] is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = next((n for n in (fault.cut, fault.hold) if n is not None), len(content))
        self.hub.sent += 0 if self.path.startswith("/api/") else len(content[:end])
        self.wfile.write(content[:end])
        self.wfile.flush()
        if fault.hold is not None:
            self.hub.holding.set()
            if self._released():
                self.wfile.write(content[end:])
        if fault.cut is not None:
            self.close_connection = True

    def _released(self):
        """Wait for `release`; return False if the client has gone."""
        self.connection.settimeout(0.02)
        while not self.hub.release.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            return True
        self.close_connection = True
        return False
