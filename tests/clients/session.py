"""One session of a Python client, as run.py asks for it: lists the tools, makes the calls, prints what came back."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager


def stdio(command):
    from mcp import StdioServerParameters

    return StdioServerParameters(command=command["argv"][0], args=command["argv"][1:], env=command["env"], cwd=command["cwd"])


@asynccontextmanager
async def new_client(task):
    from mcp import Client

    async with Client(task.get("url") or stdio(task["command"]), mode=task["mode"]) as client:
        yield client


@asynccontextmanager
async def old_client(task):
    from mcp import ClientSession
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamablehttp_client

    transport = streamablehttp_client(task["url"]) if "url" in task else stdio_client(stdio(task["command"]))
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        yield session


async def main(task):
    async with {"new": new_client, "old": old_client}[task["kind"]](task) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        texts = []
        for name, arguments in task["calls"]:
            result = await client.call_tool(name, arguments)
            is_error = getattr(result, "is_error", getattr(result, "isError", False))
            texts.append([bool(is_error), [block.text for block in result.content]])
    print(json.dumps({"tools": tools, "texts": texts}))


asyncio.run(main(json.loads(sys.argv[1])))
