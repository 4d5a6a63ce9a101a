"""Who is let in: keys and tickets, guessing, origins of pages, servers open to the world, paths of files."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from wavlm_live.model.errors import ConfigurationError
from wavlm_live.streamer.client import Client, ConnectionFailed, Retry
from wavlm_live.streamer.events import Ready
from wavlm_live.streamer.protocols.native_client import ServerRefused
from wavlm_live.streamer.server.keys import KeyRing, make_key, parse_keys, read_keys
from wavlm_live.streamer.server.limits import Doorkeeper, LimitReached
from wavlm_live.streamer.server.settings import Limits, ServerSettings

START = '{"type":"start"}'


def test_keys_and_tickets(tiny, start_server, tmp_path):
    key, line = make_key("anna")
    other, _ = make_key("bob")
    (tmp_path / "keys").write_text(f"# keys\n{line}\n")
    with start_server(tiny, keys=read_keys(tmp_path / "keys")) as server:
        with connect(server.url) as client:
            client.send(START)
            problem = json.loads(client.recv(30))
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(30)
            assert (problem["code"], closed.value.rcvd.code) == ("unauthorized", 1008)
        with pytest.raises(InvalidStatus):
            _open(server.url, {"Authorization": f"Bearer {other}"})
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"Token {key}"}, {"X-API-Key": key}):
            with connect(server.url, additional_headers=headers) as client:
                client.send(START)
                assert json.loads(client.recv())["type"] == "ready"
        with connect(server.url) as client:  # a browser: the key in the first message
            client.send(json.dumps({"type": "start", "key": key}))
            assert json.loads(client.recv())["type"] == "ready"
        ticket = httpx.post(f"{server.http}/v1/tickets", headers={"X-API-Key": key}).json()["ticket"]
        with connect(f"{server.url}?ticket={ticket}") as client:
            client.send(START)
            assert json.loads(client.recv())["type"] == "ready"
        with pytest.raises(InvalidStatus):
            _open(f"{server.url}?ticket={ticket}", {})  # it was good for one connection
        for path in ("/v1/listen?encoding=linear16&sample_rate=16000", "/v1/realtime", "/vosk"):
            with pytest.raises(InvalidStatus) as error:
                _open(server.url.replace("/v1/stream", path), {})
            assert error.value.response.status_code == 401
        assert httpx.post(f"{server.http}/v1/audio/transcriptions").status_code == 401
        with pytest.raises(ServerRefused, match="API key"):
            list(Client(server.url, key=other).transcribe([np.zeros(16_000, np.float32)]))


def _open(url: str, headers: dict) -> None:
    with connect(url, additional_headers=headers):
        pass


def test_key_files_say_what_is_wrong_without_repeating_it():
    with pytest.raises(ConfigurationError, match="line 2") as error:
        parse_keys(["# fine", "secret"], "keys.txt")
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(Path("/nonexistent"))
    ring = KeyRing(["a-key-that-is-long-enough-1", "a-key-that-is-long-enough-2"])
    assert ring.name_of("a-key-that-is-long-enough-2") == "key2"
    assert ring.name_of("a-key-that-is-long-enough-3") is None
    assert ring.name_of(None) is None
    now = [0.0]
    ring = KeyRing(["a-key-that-is-long-enough-1"], lambda: now[0])
    old, forged = ring.make_ticket("key1"), ring.make_ticket("key1").replace("key1", "root")
    assert ring.name_of(forged) is None
    now[0] = 61
    assert ring.name_of(old) is None
    assert ring.name_of("ticket.....") is None


def test_guessing_is_stopped():
    now = [0.0]
    door = Doorkeeper(Limits(failures_per_minute=3), lambda: now[0])
    for _ in range(3):
        assert not door.suspicious("1.2.3.4")
        door.failed("1.2.3.4")
    assert door.suspicious("1.2.3.4")
    assert not door.suspicious("5.6.7.8")
    now[0] = 61
    assert not door.suspicious("1.2.3.4")
    door = Doorkeeper(Limits(sessions_per_key=1))
    door.enter("anna", "a")
    with pytest.raises(LimitReached):
        door.enter("anna", "b")
    door.leave("anna", "a")
    door.enter("anna", "b")


def test_a_server_open_to_the_world_without_keys_is_refused():
    with pytest.raises(ConfigurationError, match="let everybody in"):
        ServerSettings(host="0.0.0.0")
    ServerSettings(host="0.0.0.0", open_to_all=True)
    ServerSettings(host="::1")
    with pytest.raises(ConfigurationError, match="TLS needs both"):
        ServerSettings(tls_key=Path(__file__))


CERTIFICATE = Path(__file__).parent / "tls.pem"
"""Of localhost, self-signed, with its key; for this test alone."""


def test_tls(tiny, start_server):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    silence = [np.zeros(16_000, np.float32)]
    with start_server(tiny, tls_certificate=CERTIFICATE, tls_key=CERTIFICATE) as server:
        assert server.url.startswith("wss://")
        events = list(Client(server.url, ssl=context, retry=Retry(give_up_s=0)).transcribe(silence))
        assert isinstance(events[0], Ready)
        with pytest.raises(ServerRefused, match="SSL_CERT_FILE"):
            list(Client(server.url).transcribe(silence))
        with pytest.raises(ConnectionFailed, match="wss://"):
            list(Client(server.url.replace("wss", "ws"), retry=Retry(give_up_s=0)).transcribe(silence))
        headers = httpx.get(f"{server.http}/healthz", verify=context).headers
        assert "max-age" in headers["strict-transport-security"]


def test_a_client_is_told_what_is_wrong_with_its_address(tiny, start_server, caplog):
    key, line = make_key("anna")
    silence = [np.zeros(16_000, np.float32)]
    with start_server(tiny, keys=(line,)) as server:
        place = server.url.removesuffix("/v1/stream")
        assert list(Client(place, key=key).transcribe(silence))
        with pytest.raises(ServerRefused, match="nothing at this path"):
            list(Client(f"{place}/v1/steam", key=key).transcribe(silence))
        with pytest.raises(ServerRefused, match="server refused: this server needs an API key"):
            list(Client(place, key=key + "x").transcribe(silence))
    assert "handshake" not in caplog.text


def test_foreign_pages_may_not_connect(tiny, start_server):
    with start_server(tiny, allowed_origins=("https://friend.example",)) as server:
        own = server.http
        for origin, fine in (
            (own, True),
            ("https://friend.example", True),
            ("https://evil.example", False),
            ("null", False),
        ):
            if fine:
                _open(server.url, {"Origin": origin})
            else:
                with pytest.raises(InvalidStatus) as error:
                    _open(server.url, {"Origin": origin})
                assert error.value.response.status_code == 403
        headers = httpx.get(f"{server.http}/healthz").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_no_path_reaches_the_file_system(tiny_server):
    place = urlsplit(tiny_server.http)
    for path in (
        "/../../etc/passwd",
        "/web/../__init__.py",
        "/web/%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "/web/..\\x",
    ):
        client = http.client.HTTPConnection(place.hostname, place.port)
        client.request("GET", path)
        assert client.getresponse().status == 404
