"""The official Python client of the Model Context Protocol, driven line by line.

    agent.py MODE COMMAND ARG...           a server on the other end of a pipe
    agent.py MODE --socket PATH [TOKEN]    /mcp of a service that listens on a socket of the file system

MODE is `auto`, the newest version that both ends speak, or `legacy`, the one with a handshake. Each line of standard input is
a request: {"do": "call", "name": …, "arguments": …}, or one of the other words below; each answer is a line of JSON. What
a tool reports with a structure the client holds against the tool's output schema.
"""

import asyncio
import json
import sys

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import PromptReference, ResourceTemplateReference


async def call(client, asked):
    progress = []

    async def note(done, total, message):
        progress.append([done, total, message])

    calling = client.call_tool(asked["name"], asked.get("arguments"), progress_callback=note)
    if "cancel_after_progress" not in asked:
        result = await calling
        return dump(result) | {"progress": progress}
    task = asyncio.ensure_future(calling)
    while len(progress) < asked["cancel_after_progress"]:
        await asyncio.sleep(0.05)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return {"cancelled": True, "progress": progress}
    return {"cancelled": False}


async def complete(client, asked):
    of = asked["ref"]
    reference = (
        ResourceTemplateReference(type="ref/resource", uri=of)
        if "://" in of
        else PromptReference(type="ref/prompt", name=of)
    )
    return dump(await client.complete(reference, {"name": asked["argument"], "value": asked["value"]}))


def dump(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=False)


async def about(client):
    server = client.server_info
    return {
        "name": server.name,
        "version": server.version,
        "instructions": client.instructions,
        "protocol": client.protocol_version,
        "capabilities": client.server_capabilities.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


async def answer(client, asked):
    match asked["do"]:
        case "about":
            return await about(client)
        case "tools":
            return dump(await client.list_tools())
        case "call":
            return await call(client, asked)
        case "resources":
            return dump(await client.list_resources())
        case "templates":
            return dump(await client.list_resource_templates())
        case "read":
            return dump(await client.read_resource(asked["uri"]))
        case "prompts":
            return dump(await client.list_prompts())
        case "prompt":
            return dump(await client.get_prompt(asked["name"], asked.get("arguments")))
        case "complete":
            return await complete(client, asked)
    raise ValueError(f"unknown: {asked['do']}")


def server(words):
    if words[0] != "--socket":
        return StdioServerParameters(command=words[0], args=words[1:], env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    socket, token = words[1], words[2] if len(words) > 2 else None
    http = httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=socket),
        headers={"Authorization": f"Bearer {token}"} if token else None,
        # The first clients give up after a minute, and so does this one.
        timeout=60,
    )
    return streamable_http_client("http://localhost/mcp", http_client=http)


async def main():
    mode, *words = sys.argv[1:]
    async with Client(server(words), mode=mode, read_timeout_seconds=60) as client:
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            try:
                told = {"ok": await answer(client, json.loads(line))}
            except Exception as error:  # whatever the client makes of it is the answer
                told = {"error": str(error), "kind": type(error).__name__}
            print(json.dumps(told), flush=True)


asyncio.run(main())
