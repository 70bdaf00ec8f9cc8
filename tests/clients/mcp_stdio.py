"""The MCP SDK's client with a server that it starts: what it does there, and behind `--` the server's command."""
import asyncio
import json
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

SPLIT = sys.argv.index("--")
WHAT, (COMMAND, *ARGUMENTS) = sys.argv[1:SPLIT], sys.argv[SPLIT + 1 :]


async def main():
    server = StdioServerParameters(command=COMMAND, args=ARGUMENTS)
    async with Client(stdio_client(server)) as client:
        for what in WHAT:
            try:
                if what == "list":
                    print(*sorted(tool.name for tool in (await client.list_tools()).tools))
                elif what == "secret":
                    print((await client.read_resource("file:///secret")).contents[0].text)
                else:
                    tool, arguments = what.split("=", 1)
                    arguments = json.loads(arguments) if arguments.startswith("{") else {"path": arguments}
                    result = await client.call_tool(tool, arguments)
                    print(tool, result.is_error, result.content[0].text)
            except Exception as error:
                print(type(error).__name__, error)


asyncio.run(main())
