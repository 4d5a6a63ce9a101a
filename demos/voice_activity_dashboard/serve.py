"""A page of one's own with a lane of the dashboard in it.

    python demos/voice_activity_dashboard/serve.py            then open http://127.0.0.1:8770/

The page (page.html, page.js) is served here, beside wavlm-live's own application, whose `/web/` modules it imports.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.server.app import create_app
from wavlm_live.streamer.server.service import Service
from wavlm_live.streamer.server.settings import ServerSettings

HERE = Path(__file__).resolve().parent


async def page(request: Request) -> Response:
    return FileResponse(HERE / "page.html")


async def script(request: Request) -> Response:
    return FileResponse(HERE / "page.js", media_type="text/javascript")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8770)
    options = parser.parse_args()
    with Batcher(Recogniser.load()) as batcher:
        app = create_app(Service(batcher, ServerSettings(port=options.port)))
        app.router.routes[:0] = [Route("/", page), Route("/page.js", script)]  # before the dashboard's own page
        print(f"http://127.0.0.1:{options.port}/", flush=True)
        uvicorn.run(app, host="127.0.0.1", port=options.port, ws="websockets-sansio", log_level="warning")


if __name__ == "__main__":
    main()
