"""A server of tools by the MCP SDK, over standard input and output. It says each call that reaches it on standard
error."""
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("files")


def called(*words):
    print("called", *words, file=sys.stderr, flush=True)


@server.tool()
def read(path: str) -> str:
    """Reads a file."""
    called("read", path)
    return f"what is in {path}"


@server.tool()
def write(path: str) -> str:
    """Writes a file."""
    called("write", path)
    return "written"


@server.resource("file:///secret")
def secret() -> str:
    """A secret."""
    called("secret")
    return "secret"


server.run("stdio")
