"""The MCP SDK's client as its users call it: how it connects, where, and what it does there are its arguments."""
import asyncio
import sys

from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

HOW, URL, *WHAT = sys.argv[1:]


def connect():
    match HOW:
        case "stateless":
            return Client(streamable_http_client(URL), mode="2026-07-28")
        case "session":
            return Client(streamable_http_client(URL), mode="legacy")
        case "sse":
            return Client(sse_client(URL), mode="legacy")


async def main():
    async with connect() as client:
        for what in WHAT:
            try:
                if what == "list":
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
