"""API keys and tickets: who may use the server.

A key file has a line for each key: a name, and `sha256:` with the hash of the key in hexadecimal; `#` begins a comment.
Keys are random and long, so a plain hash of them cannot be guessed back. A ticket is good for one connection within a
minute: a web page gets it from its own server and never sees the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...model.errors import ConfigurationError

SHORTEST_KEY = 20
TICKET_S = 60.0
_LINE = re.compile(r"([\w.@-]{1,64})\s+sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Key:
    """One API key, as the server knows it."""

    name: str
    digest: bytes


def make_key(name: str) -> tuple[str, str]:
    """A new key and its line for the key file.

    Raises:
        ConfigurationError: a name that cannot stand in a file.
    """
    key = "wl-" + secrets.token_urlsafe(32)
    line = f"{name} sha256:{_digest(key).hex()}"
    if not _LINE.fullmatch(line):
        raise ConfigurationError(f"the name {name!r} of a key must be letters, digits, and . @ - _, at most 64")
    return key, line


def parse_keys(lines: Iterable[str], where: str) -> list[Key]:
    """Keys from the lines of a file.

    A line may also be a key itself, at least 20 characters long, as it comes from the environment.

    Raises:
        ConfigurationError: a line that is neither; the message does not repeat it.
    """
    keys: list[Key] = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match:
            keys.append(Key(match[1], bytes.fromhex(match[2])))
        elif len(text) >= SHORTEST_KEY and not re.search(r"\s", text):
            keys.append(Key(f"key{number}", _digest(text)))
        else:
            raise ConfigurationError(
                f"{where}, line {number}: expected `NAME sha256:HASH`, or a key of at least {SHORTEST_KEY} characters"
            )
    return keys


def read_keys(file: Path | None, environment: str = "") -> tuple[str, ...]:
    """The lines of a key file and of a variable, in which commas part them.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    lines: list[str] = []
    if file is not None:
        try:
            lines += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the key file {file} cannot be read: {error}") from error
        parse_keys(lines, str(file))
        if not any(line.split("#", 1)[0].strip() for line in lines):
            raise ConfigurationError(f"the key file {file} holds no key; make one with `wavlm-live key NAME`")
    more = [part for part in environment.split(",") if part.strip()]
    parse_keys(more, "WAVLM_LIVE_API_KEYS")
    return tuple(lines + more)


class KeyRing:
    """Knows the keys and the tickets.

    Args:
        lines: as in a key file; none: everybody is let in.
        clock: seconds that only grow.
    """

    def __init__(self, lines: Iterable[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = parse_keys(lines, "the API keys")
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._used: dict[str, float] = {}

    @property
    def open_to_all(self) -> bool:
        """There are no keys."""
        return not self._keys

    def name_of(self, credential: str | None) -> str | None:
        """Whose key or ticket it is; None: nobody's. Takes as long for a wrong key as for a right one."""
        if self.open_to_all:
            return ""
        if not credential or len(credential) > 500:
            return None
        digest = _digest(credential)
        found: str | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found if found is not None else self._ticket(credential)

    def make_ticket(self, name: str) -> str:
        """A ticket for the owner of a key."""
        body = f"{name}.{self._clock() + TICKET_S:.3f}.{secrets.token_urlsafe(12)}"
        return f"ticket.{body}.{self._sign(body)}"

    def _ticket(self, text: str) -> str | None:
        prefix, _, rest = text.partition(".")
        body, _, signature = rest.rpartition(".")
        if prefix != "ticket" or not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            return None
        now = self._clock()
        self._used = {nonce: end for nonce, end in self._used.items() if end > now}
        start, _, nonce = body.rpartition(".")
        name, _, fraction = start.rpartition(".")
        name, _, whole = name.rpartition(".")
        end = float(f"{whole}.{fraction}")
        if end < now or nonce in self._used:
            return None
        self._used[nonce] = end
        return name

    def _sign(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()


def credential_of(headers: Iterable[tuple[str, str]], query: dict[str, str], subprotocols: Iterable[str] = ()) -> str:
    """The key or ticket that a request carries, where the protocols of the peers put it; "" for none."""
    for name, value in headers:
        name = name.lower()
        if name == "authorization":
            scheme, _, credential = value.partition(" ")
            if scheme.lower() in ("bearer", "token"):
                return credential.strip()
        if name in ("x-api-key", "api-key"):
            return value.strip()
    offered = list(subprotocols)
    if len(offered) == 2 and offered[0].lower() in ("token", "bearer"):
        return offered[1]  # as Deepgram's browser clients do
    for subprotocol in offered:  # browsers cannot set headers; OpenAI's client and Deepgram's put it here
        for prefix in ("openai-insecure-api-key.", "wavlm-live-key."):
            if subprotocol.startswith(prefix):
                return subprotocol.removeprefix(prefix)
    return query.get("ticket", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
