"""The usual way to serve a file from Python: `python -m prestage.bench.fileserver FILE --port P`, aiohttp's FileResponse.

On the stock asyncio loop that is sendfile. Several processes share the port by SO_REUSEPORT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aiohttp import web


def main() -> None:
    """One process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    async def whole(_: web.Request) -> web.FileResponse:
        return web.FileResponse(given.file)

    app = web.Application()
    app.router.add_get("/file", whole)
    web.run_app(app, host="127.0.0.1", port=given.port, reuse_port=True, access_log=None, print=None)


if __name__ == "__main__":
    main()
