"""The native protocol by hand, with nothing but a WebSocket library; what docs/protocol.md describes."""

from __future__ import annotations

import json
import sys
import wave

from websockets.sync.client import connect


def main(url: str, path: str) -> None:
    with wave.open(path) as file, connect(url) as socket:
        audio = {"encoding": "pcm_s16le", "rate": file.getframerate(), "channels": file.getnchannels()}
        socket.send(json.dumps({"type": "start", "audio": audio}))
        window_s = json.loads(socket.recv())["window_s"]
        frame_bytes = 2 * file.getnchannels()
        sent = heard = 0
        ended = False
        while True:
            while not ended and sent - heard < window_s * file.getframerate() * frame_bytes:
                if data := file.readframes(file.getframerate() // 10):
                    socket.send(data)
                    sent += len(data)
                else:
                    socket.send('{"type": "end"}')
                    ended = True
            event = json.loads(socket.recv())
            if event["type"] == "acknowledged":
                heard = event["heard_bytes"]
            elif event["type"] == "final":
                print(f"{event['start_s']:7.2f} s  {event['text']}")
            elif event["type"] in ("ended", "problem"):
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
