"""Addresses of servers, as people type them."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from ..model.errors import ConfigurationError

STREAM_PATH = "/v1/stream"
"""Where the native protocol is."""


def address_parts(url: str, schemes: tuple[str, ...], expected: str) -> SplitResult:
    """The parts of an address.

    Args:
        url: the address.
        schemes: that it may have.
        expected: how such an address looks, for the message.

    Raises:
        ConfigurationError: another scheme, no host, or a port that is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # half of an IPv6 address, a port of letters or beyond 65535
        raise ConfigurationError(f"{url} is no address of a server ({error}); expected {expected}") from error
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise ConfigurationError(f"{url} is no address of a server; expected {expected}")
    return parts


def stream_address(url: str) -> str:
    """Where streams of a server go, from its address with or without the path.

    Raises:
        ConfigurationError: no address of a WebSocket.
    """
    parts = address_parts(url, ("ws", "wss"), f"ws://HOST:PORT{STREAM_PATH} or wss://...")
    bare = parts.path in ("", "/") and not parts.query and "?" not in url
    return url.rstrip("/") + STREAM_PATH if bare else url
