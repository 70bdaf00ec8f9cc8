"""The MCP SDK's client as its users call it: how it connects, where, and what it does there are its arguments. Behind how
it connects may stand the version that it offers, as an older one does: `session=2025-03-26`. It says what servers ask."""
import asyncio
import sys

from mcp import Client
from mcp.client import session
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CreateMessageResult, ElicitResult, TextContent

HOW, URL, *WHAT = sys.argv[1:]
HOW, _, VERSION = HOW.partition("=")
# In seconds: a server that gets no answer gives none.
PATIENCE = 5


async def sampled(_context, asked):
    print("sampled", asked.messages[0].content.text)
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="thought"), model="own")


async def elicited(_context, asked):
    print("elicited", asked.message)
    return ElicitResult(action="accept", content={"sure": True})


def connect():
    if VERSION:
        session.LATEST_HANDSHAKE_VERSION = VERSION
    asked = {"sampling_callback": sampled, "elicitation_callback": elicited}
    match HOW:
        case "stateless":
            return Client(streamable_http_client(URL), mode="2026-07-28", **asked)
        case "session":
            return Client(streamable_http_client(URL), mode="legacy", read_timeout_seconds=PATIENCE, **asked)
        case "sse":
            return Client(sse_client(URL), mode="legacy", read_timeout_seconds=PATIENCE, **asked)


async def main():
    async with connect() as client:
        for what in WHAT:
            try:
                if what == "version":
                    print(client.protocol_version)
                elif what == "list":
                    print([tool.name for tool in (await client.list_tools()).tools])
                elif what == "describe":
                    for tool in (await client.list_tools()).tools:
                        print(tool.name, tool.description)
                elif what == "secret":
                    print((await client.read_resource("file:///secret")).contents[0].text)
                else:
                    tool, path = what.split("=")
                    result = await client.call_tool(tool, {"path": path})
                    print(result.is_error, result.content[0].text)
            except Exception as error:
                print(type(error).__name__, error)


asyncio.run(main())
