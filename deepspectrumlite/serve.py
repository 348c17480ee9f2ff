"""A small server for a site on this machine, with the headers that threads in WASM want.

It gives the files of one folder, and nothing else: no lists of folders, no link out of it, and
nothing hidden, such as the ``.git`` of a checkout that the site lies in.
"""

import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deepspectrumlite.config import SERVE_HOST, SERVE_PORT
from deepspectrumlite.errors import WebError
from deepspectrumlite.web import is_site

# What the page says of itself in a meta tag, here also for sw.js, which the tag does not cover; and
# what no tag can say: that no other page may frame it.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self'; img-src 'self' data: blob:; media-src blob:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    # Both together make a page "cross-origin isolated", and only such a page gets threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
# Not what the system says, which differs; browsers refuse WASM and scripts of another type.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tflite": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}


class SiteServer(ThreadingHTTPServer):
    """Serves one folder until it is closed."""

    daemon_threads = True

    @property
    def url(self) -> str:
        """Where the site is."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def open_server(folder: Path, host: str = SERVE_HOST, port: int = SERVE_PORT) -> SiteServer:
    """A server of a site, ready for ``serve_forever``.

    Args:
        folder: what :func:`deepspectrumlite.web.write_site` wrote
        host: the address to listen on; that of this machine alone, unless given
        port: 0 takes any that is free

    Raises:
        WebError: no site there, or the port cannot be had
    """
    if not is_site(folder):
        raise WebError(
            f"{folder}: no site there; write one with: deepspectrumlite web FILE.tflite --out "
            f"{folder}"
        )
    try:
        return SiteServer((host, port), partial(_Handler, directory=str(folder.resolve())))
    except OSError as error:
        raise WebError(
            f"{host}, port {port}: cannot be had ({error.strerror}); choose another --port or "
            "--host"
        ) from None


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "deepspectrumlite"
    sys_version = ""

    # Of the file that is asked for; None: there is no such file.
    tag: str | None = None

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.tag is not None:
            self.send_header("ETag", self.tag)
        super().end_headers()

    def send_head(self) -> Any:
        path, folder = Path(self.translate_path(self.path)), Path(self.directory)
        path = path / "index.html" if path == folder else path
        self.tag = None
        if not path.is_file() or not _is_shown(path, folder):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        about = path.stat()
        # Not by whole seconds, within which a site can be written anew.
        self.tag = f'"{about.st_size:x}-{about.st_mtime_ns:x}"'
        del self.headers["If-Modified-Since"]
        if self.headers["If-None-Match"] == self.tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.end_headers()
            return None
        return super().send_head()

    def guess_type(self, path: object) -> str:
        return TYPES.get(Path(str(path)).suffix.lower(), "application/octet-stream")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: only the command talks to the terminal."""


def _is_shown(path: Path, folder: Path) -> bool:
    real = path.resolve()
    if not real.is_relative_to(folder):
        return False
    return not any(part.startswith(".") for part in real.relative_to(folder).parts)
