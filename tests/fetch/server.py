"""A server that misbehaves, for test_fetch: Python's standard library alone.

    python3 server.py FOLDER      prints its port, serves until its standard input ends

Below /api/models/O/R it describes the folder as a repository, with the licence "test-licence". Files
are at /O/R/resolve/main/PATH and at /plain/PATH; the first letter of O, or of the folder before PATH,
is how it behaves there:

    g  as it should       d  drops every answer after a third of the file    r  ignores ranges
    n  gives no ETag      w  says another size in its list                   h  says another hash
    m  redirects first    b  answers with more than it should                5  answers 503 at first
    c  the file is another version after the first answer, which is dropped
    l  redirects in circles
"""
import hashlib
import http.server
import json
import pathlib
import sys
import threading

ROOT = pathlib.Path(sys.argv[1])
asked = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def api(self, words):
        mode = words[0][0]
        if len(words) == 2:
            card = {"cardData": {"license": "test-licence"}, "sha": "abc123"}
            return self.answer(200, json.dumps(card).encode())
        files = []
        for path in sorted(ROOT.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                entry = {"type": "file", "path": str(path.relative_to(ROOT)),
                         "size": len(data) + (mode == "w")}
                if path.suffix in (".safetensors", ".bin"):
                    digest = hashlib.sha256(b"x" if mode == "h" else data).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": entry["size"]}
                files.append(entry)
        self.answer(200, json.dumps(files).encode())

    def file(self, mode, path):
        key = (mode, str(path))
        asked[key] = asked.get(key, 0) + 1
        if not path.is_file():
            return self.answer(404, b"none")
        data = path.read_bytes()
        if mode == "l" or (mode == "m" and asked[key] % 2):
            return self.answer(302, headers=[("Location", self.path)])
        if mode == "5" and asked[key] == 1:
            return self.answer(503, b"busy")
        if mode == "c" and asked[key] == 1:
            data = bytes(255 - b for b in data)
        if mode == "b":
            data += b"more"
        tag = '"%s"' % hashlib.sha256(data).hexdigest()[:16]
        headers = [] if mode == "n" else [("ETag", tag)]
        wanted = self.headers.get("Range", "")
        start = 0
        if wanted.startswith("bytes=") and mode != "r" and self.headers.get("If-Range", tag) == tag:
            start = int(wanted[6:].split("-")[0])
            if start >= len(data):
                return self.answer(416)
            headers.append(("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}"))
        body = data[start:]
        sent = body
        if mode == "d" or (mode in "rnc" and asked[key] == 1):
            sent = body[:max(1, len(data) // 3)]
        self.answer(206 if start else 200, sent, headers, len(body))
        if len(sent) < len(body):
            self.close_connection = True

    def do_GET(self):
        words = self.path.split("?")[0].strip("/").split("/")
        if words[:2] == ["api", "models"]:
            return self.api(words[2:])
        if words[0] == "plain":
            return self.file(words[1][0], ROOT.joinpath(*words[2:]))
        if len(words) > 4 and words[2] == "resolve" and words[3] == "abc123":
            return self.file(words[0][0], ROOT.joinpath(*words[4:]))
        self.answer(404, b"none")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
