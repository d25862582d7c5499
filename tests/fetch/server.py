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
    s  has the U-Net in shards        t  has an index that names a file of another folder
    u  has an index that names a file that is not there
    k  is gated: the token is "good-token"        p  is private: nothing is told without it
    e  is gated and redirects to another port     o  to the same by another name of this machine
    x  refuses whoever sends a token
"""
import hashlib
import http.server
import json
import pathlib
import struct
import sys
import threading

ROOT = pathlib.Path(sys.argv[1])
asked = {}


UNET = "unet/diffusion_pytorch_model"


def part(data, names):
    """A file of safetensors with some of another's tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    old, header, body = json.loads(data[8:8 + length]), {}, b""
    for name in names:
        begin, end = old[name]["data_offsets"]
        tensor = data[8 + length + begin:8 + length + end]
        header[name] = dict(old[name], data_offsets=[len(body), len(body) + len(tensor)])
        body += tensor
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def shards(mode):
    """The U-Net as two files and their index, by name."""
    data = (ROOT / (UNET + ".safetensors")).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    names = sorted(name for name in json.loads(data[8:8 + length]) if name != "__metadata__")
    files, index = {}, {}
    for i, half in enumerate((names[::2], names[1::2])):
        path = f"{UNET}-0000{i + 1}-of-00002.safetensors"
        files[path] = part(data, half)
        index.update({name: path.split("/")[1] for name in half})
    if mode in "tu":
        index[names[0]] = "../vae/config.json" if mode == "t" else "lost.safetensors"
    files[UNET + ".safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    return files


def content(mode):
    """Every file's bytes by its path."""
    files = {str(path.relative_to(ROOT)): path.read_bytes()
             for path in sorted(ROOT.rglob("*")) if path.is_file()}
    if mode in "stu":
        del files[UNET + ".safetensors"]
        files.update(shards(mode))
    return files


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

    def known(self, mode):
        """Whether this mode lets the sender in; if not, it has been answered."""
        token = self.headers.get("Authorization")
        if mode in "kpeo" and token != "Bearer good-token":
            self.answer(403 if token else 401, b"no")
            return False
        if mode == "x" and token:
            self.answer(400, b"a token that is none of my business")
            return False
        return True

    def api(self, words):
        mode = words[0][0]
        if mode == "p" and not self.known(mode):
            return
        if len(words) == 2:
            card = {"cardData": {"license": "test-licence"}, "sha": "abc123",
                    "gated": "auto" if mode in "keo" else False}
            return self.answer(200, json.dumps(card).encode())
        files = []
        for path, data in content(mode).items():
            entry = {"type": "file", "path": path, "size": len(data) + (mode == "w")}
            if path.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(b"x" if mode == "h" else data).hexdigest()
                entry["lfs"] = {"oid": digest, "size": entry["size"]}
            files.append(entry)
        self.answer(200, json.dumps(files).encode())

    def file(self, mode, path):
        key = (mode, path)
        asked[key] = asked.get(key, 0) + 1
        data = content(mode).get(path)
        if not self.known(mode):
            return
        if data is None:
            return self.answer(404, b"none")
        if mode in "eo":
            host = f"127.0.0.1:{other.server_address[1]}"
            if mode == "o":
                host = f"localhost:{server.server_address[1]}"
            return self.answer(302, headers=[("Location", f"http://{host}/plain/x/{path}")])
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
            return self.file(words[1][0], "/".join(words[2:]))
        if len(words) > 4 and words[2] == "resolve" and words[3] == "abc123":
            return self.file(words[0][0], "/".join(words[4:]))
        self.answer(404, b"none")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
for each in (server, other):
    threading.Thread(target=each.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
