"""A program that answers with what it was sent, for pods of the image ``python``: ``-c TEXT NAME PORT``.

Standard library only. A request's headers script it: ``x-sleep: SECONDS``, and ``x-fail: N`` for 503 on the first N
tries. ``PUT /failing/SHARE`` lets a share of all further requests, 0 to 1, fail; ``GET /tries`` tells how often
``x-try`` was seen, and counts itself not.
"""

from __future__ import annotations

import collections
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TRIES: collections.Counter[str] = collections.Counter()
LOCK = threading.Lock()


class Echo(BaseHTTPRequestHandler):
    """Answers every GET.

    Attributes:
        failing: share of the requests that fail.
    """

    protocol_version = "HTTP/1.1"
    failing = 0.0

    def do_PUT(self) -> None:
        Echo.failing = float(self.path.removeprefix("/failing/"))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        time.sleep(float(self.headers.get("x-sleep", 0)))
        key = self.headers.get("x-try", "")
        with LOCK:
            TRIES[key] += self.path != "/tries"
            tries = TRIES[key]
        failed = tries <= int(self.headers.get("x-fail", 0)) or random.random() < Echo.failing
        said = {"name": sys.argv[1], "path": self.path, "tries": tries}
        body = json.dumps(said | {"headers": {name.lower(): value for name, value in self.headers.items()}}).encode()
        self.send_response(503 if failed else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-model-version", "claimed-by-upstream")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing, or thousands of requests would be written down."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Echo).serve_forever()
