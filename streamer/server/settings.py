"""`ServerSettings`: where the server listens, whom it lets in, and how much anybody may take."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...model.errors import ConfigurationError
from ..session_settings import SessionSettings


@dataclass(frozen=True)
class Limits:
    """How much one client may take. Zero means without limit where it says so.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    sessions_per_key: int = 64
    """Streams at once with one API key."""
    sessions_per_address: int = 64
    """Streams at once from one address."""
    audio_rate: float = 40.0
    """Seconds of sound in a second that one stream may send, once its burst is used up."""
    audio_rate_per_key: float = 400.0
    """The same for all live streams and files of a key together; their burst is longer in proportion."""
    audio_rate_per_address: float = 400.0
    """The same for all live streams and files of an address together."""
    audio_burst_s: float = 30.0
    """Sound that one stream may send at once."""
    message_bytes: int = 1 << 20
    """Largest message."""
    message_audio_s: float = 60.0
    """Longest sound in one message: compressed silence is small."""
    upload_bytes: int = 100 << 20
    """Largest file over REST."""
    upload_s: float = 4 * 3600.0
    """Longest file over REST."""
    uploads: int = 4
    """Files over REST at once."""
    session_s: float = 12 * 3600.0
    """Longest stream, in sound and in time."""
    idle_s: float = 60.0
    """A client that says nothing for so long, not even `keep_alive`, is disconnected."""
    start_s: float = 15.0
    """Time for the first message."""
    write_s: float = 30.0
    """A client that does not read for so long is disconnected."""
    queue_s: float = 10.0
    """Sound of one stream that may wait for the model; then its socket is not read on."""
    unread_events: int = 500
    """Events that may wait for a client that reads slowly; then its sound is not heard on."""
    kept_events: int = 512
    """Events that are kept for a client that comes back."""
    hold_s: float = 60.0
    """How long a broken stream waits for its client."""
    held: int = 64
    """Broken streams that wait at once; the oldest goes first."""
    failures_per_minute: int = 30
    """Wrong keys from one address, before it is refused without a look."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            lowest = 0 if name in ("held", "hold_s") else 1
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < float("inf"):
                raise ConfigurationError(f"Limits.{name} is {value!r}, expected a number from {lowest}")


@dataclass(frozen=True)
class ServerSettings:
    """The server.

    Raises:
        ConfigurationError: settings that would leave the server open, or cannot work.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any free one."""
    wyoming_port: int | None = None
    """Wyoming over TCP; None: off, 0: any free one."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    """Web pages, as `https://host:port`, besides the server's own, whose scripts may connect."""
    keys: tuple[str, ...] = ()
    """Lines as in a key file; none: everybody is let in."""
    open_to_all: bool = False
    """Listen beyond this machine without keys."""
    limits: Limits = field(default_factory=Limits)
    session: SessionSettings = field(default_factory=SessionSettings)
    """How streams listen where their client does not say."""
    sessions: Mapping[str, SessionSettings] = field(default_factory=dict)
    """The same for further models, by name; for those not named, as `session` in the model's own context, without
    speakers."""
    log_text: bool = False
    """Write what was said into the log."""
    drain_s: float = 20.0
    """Time for open streams to get their last results when the server is stopped."""

    def __post_init__(self) -> None:
        for name in ("port", "wyoming_port"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 0 <= value < 65536):
                raise ConfigurationError(f"ServerSettings.{name} is {value!r}, expected 0 to 65535")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("TLS needs both a certificate and its key; one of them is missing")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigurationError(f"the TLS file {path} does not exist")
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigurationError(
                    f"allowed origin {origin!r}: expected scheme and host, such as https://a.example"
                )
        if not self.is_loopback and not self.keys and not self.open_to_all:
            raise ConfigurationError(
                f"listening on {self.host} without API keys would let everybody in; give --api-keys FILE (or "
                "WAVLM_LIVE_API_KEYS), listen on 127.0.0.1, or say --open-to-all"
            )
        if self.wyoming_port is not None and self.keys and not self.open_to_all and not self.is_loopback:
            raise ConfigurationError(
                f"Wyoming has no keys: on {self.host} it would let everybody in; leave it out, or say --open-to-all"
            )

    @property
    def is_loopback(self) -> bool:
        """Only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
