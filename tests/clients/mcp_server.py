"""A server of tools by the MCP SDK, on the port, with the certificate and its key, that are its arguments: streamable
HTTP at `/mcp`, and HTTP+SSE at `/sse` and `/messages/`. It prints each call that
reaches it."""
import contextlib
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel
from starlette.applications import Starlette

server = MCPServer("files")


@server.tool()
def read(path: str) -> str:
    """Reads a file."""
    print("called read", path, flush=True)
    return f"what is in {path}"


@server.tool()
async def slowly(path: str, ctx: Context) -> str:
    """Reads a file, and says how far it is."""
    print("called slowly", path, flush=True)
    await ctx.report_progress(1, 2)
    return f"slowly {path}"


@server.tool()
def write(path: str) -> str:
    """Writes a file."""
    print("called write", path, flush=True)
    return "written"


@server.tool()
def fail(path: str) -> str:
    """Fails."""
    print("called fail", path, flush=True)
    raise ToolError(f"no {path}")


@server.tool()
async def think(path: str, ctx: Context) -> str:
    """Has the client's model say something."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=f"What of {path}?"))
    said = await ctx.session.create_message([message], max_tokens=16)
    print("answered", said.content.text, flush=True)
    return said.content.text


class Confirmed(BaseModel):
    sure: bool


@server.tool()
async def confirm(path: str, ctx: Context) -> str:
    """Has the client's user say yes."""
    said = await ctx.elicit(f"Is it {path}?", Confirmed)
    print("answered", said.action, flush=True)
    return said.action


@server.resource("file:///secret")
def secret() -> str:
    """A secret."""
    print("called secret", flush=True)
    return "secret"


def main():
    port, certificate, key = sys.argv[1:4]
    host = "0.0.0.0"
    apps = [
        server.streamable_http_app(streamable_http_path="/mcp", host=host),
        server.sse_app(host=host),
    ]
    routes = [route for app in apps for route in app.routes]

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with apps[0].router.lifespan_context(apps[0]):
            print("serving", flush=True)
            yield

    app = Starlette(routes=routes, lifespan=lifespan)
    # Longer than a client may be silent in these tests: a request that meets the end of its connection is lost.
    options = {"log_level": "warning", "timeout_keep_alive": 60}
    config = uvicorn.Config(app, ssl_certfile=certificate, ssl_keyfile=key, **options)
    # Both families, and open before it says that it serves.
    listener = socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    uvicorn.Server(config).run(sockets=[listener])


main()
