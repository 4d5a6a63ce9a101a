"""The dashboard: plain ES modules in this folder, and `Pages`, which hands them out.

No build step, nothing from other servers. Whoever serves them asks `Pages.find` for a path and sends what comes, with a
content security policy that lets nothing but these files run: they hold no script or style within the page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

__all__ = ["Page", "Pages"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Page:
    """What answers a request."""

    body: bytes
    headers: dict[str, str]
    """Lower-case names: type, length, and how long it may be kept."""

    @property
    def tag(self) -> str:
        """The entity tag: a browser that has this content already need not get it again."""
        return self.headers["etag"]


class Pages:
    """All files of the dashboard, read once.

    Only names that lie in the folder are known, so no path of a request reaches the file system. `/` is the page,
    `/web/NAME` everything that it needs.
    """

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        for file in resources.files(__name__).iterdir():
            suffix = "." + file.name.rpartition(".")[2]
            if suffix in _TYPES and file.is_file():
                page = _page(file.read_bytes(), _TYPES[suffix])
                self._pages["/" if file.name == "index.html" else f"/web/{file.name}"] = page

    @property
    def paths(self) -> list[str]:
        """What can be asked for."""
        return sorted(self._pages)

    def find(self, path: str) -> Page | None:
        """The file at a path of a URL, or None."""
        return self._pages.get(path)


def _page(body: bytes, kind: str) -> Page:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "content-type": kind,
        "content-length": str(len(body)),
        "etag": tag,
        # asked again each time, so that page and scripts are always of one version
        "cache-control": "no-cache",
    }
    return Page(body, headers)
