"""Structured logs: a line of JSON for each event, with the session it belongs to. Sound never, text only if asked."""

from __future__ import annotations

import json
import logging
import time

FIELDS = ("session", "protocol", "address", "code", "start_s", "end_s", "reason", "text", "method", "path", "status")


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("wavlm_live.streamer."),
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
