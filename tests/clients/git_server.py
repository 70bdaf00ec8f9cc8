"""Serves the repositories below a directory by git's smart protocol, in TLS: `git http-backend` does it.

git_server.py PORT DIRECTORY CERTIFICATE KEY. Prints `serving`, and then a line of JSON for each request when it is over.
"""

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys

PORT, DIRECTORY, CERTIFICATE, KEY = sys.argv[1:]


class Broken(Exception):
    """The client did not send all that it announced."""


class Handler(http.server.BaseHTTPRequestHandler):
    # With it come persistent connections, and the answer to `Expect: 100-continue`.
    protocol_version = "HTTP/1.1"

    def serve(self):
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": DIRECTORY,
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH": os.environ["PATH"],
        }
        # Without a length the program reads to the end.
        if "Content-Length" in self.headers:
            variables["CONTENT_LENGTH"] = self.headers["Content-Length"]
        backend = subprocess.Popen(
            ["git", "http-backend"], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        size, whole = 0, True
        try:
            for piece in self.content():
                size += len(piece)
                self.hand(backend, piece)
        except (Broken, OSError):
            whole = False
        self.hand(backend, None)
        answer, _ = backend.communicate()
        status = self.answer(answer) if whole else None
        told = {
            "method": self.command,
            "target": self.path,
            # `Connection` is for one hop.
            "fields": sorted(
                [name.lower(), value] for name, value in self.headers.items() if name.lower() != "connection"
            ),
            "chunked": "Transfer-Encoding" in self.headers,
            "size": size,
            "status": status,
        }
        print(json.dumps(told), flush=True)
        self.close_connection |= not whole

    do_GET = do_POST = serve

    @staticmethod
    def hand(backend, piece):
        """Passes on a piece of the request, or its end. Some requests are answered before they are read."""
        try:
            if piece is None:
                backend.stdin.close()
                backend.stdin = None
            else:
                backend.stdin.write(piece)
        except BrokenPipeError:
            pass

    def content(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self.pieces(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.line().split(b";")[0], 16):
            yield from self.pieces(size)
            self.line()
        # Trailers, and the line that ends them.
        while self.line():
            pass

    def pieces(self, left):
        while left:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                raise Broken
            left -= len(piece)
            yield piece

    def line(self):
        line = self.rfile.readline(1024)
        if not line.endswith(b"\r\n"):
            raise Broken
        return line.rstrip()

    def answer(self, answer):
        """What a CGI program says, as HTTP (RFC 3875, 6)."""
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = 200
        for name, value in fields:
            if name.lower() == "status":
                status = int(value.split()[0])
        self.send_response(status)
        for name, value in fields:
            if name.lower() not in ("status", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return status

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def finish_request(self, request, client_address):
        # On the connection's own thread: a client that does not shake hands holds up nobody.
        try:
            secure = CONTEXT.wrap_socket(request, server_side=True)
        except OSError:
            return
        with secure:
            super().finish_request(secure, client_address)


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(CERTIFICATE, KEY)
with Server(("::", int(PORT)), Handler) as server:
    print("serving", flush=True)
    server.serve_forever()
