"""Runs the official Python client of the Model Context Protocol, controlled by lines of JSON.

    agent.py MODE COMMAND ARG...           a server on standard input and output
    agent.py MODE --socket PATH [TOKEN]    /mcp of a service on a Unix socket

MODE is `auto`, the newest version that both ends support, or `legacy`, the version with a handshake. Each line of
standard input is a request such as {"do": "call", "name": …, "arguments": …}; each reply is a line of JSON. The client
validates structured tool results against the tool's output schema.
"""

import asyncio
import json
import sys

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import PromptReference, ResourceTemplateReference


async def call(client, request):
    progress = []

    async def record_progress(done, total, message):
        progress.append([done, total, message])

    pending = client.call_tool(request["name"], request.get("arguments"), progress_callback=record_progress)
    if "cancel_after_progress" not in request:
        result = await pending
        return dump(result) | {"progress": progress}
    task = asyncio.ensure_future(pending)
    while len(progress) < request["cancel_after_progress"]:
        await asyncio.sleep(0.05)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return {"cancelled": True, "progress": progress}
    return {"cancelled": False}


async def complete(client, request):
    ref = request["ref"]
    reference = (
        ResourceTemplateReference(type="ref/resource", uri=ref)
        if "://" in ref
        else PromptReference(type="ref/prompt", name=ref)
    )
    return dump(await client.complete(reference, {"name": request["argument"], "value": request["value"]}))


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


async def answer(client, request):
    match request["do"]:
        case "about":
            return await about(client)
        case "tools":
            return dump(await client.list_tools())
        case "call":
            return await call(client, request)
        case "resources":
            return dump(await client.list_resources())
        case "templates":
            return dump(await client.list_resource_templates())
        case "read":
            return dump(await client.read_resource(request["uri"]))
        case "prompts":
            return dump(await client.list_prompts())
        case "prompt":
            return dump(await client.get_prompt(request["name"], request.get("arguments")))
        case "complete":
            return await complete(client, request)
    raise ValueError(f"unknown: {request['do']}")


def server(words):
    if words[0] != "--socket":
        return StdioServerParameters(command=words[0], args=words[1:], env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    socket, token = words[1], words[2] if len(words) > 2 else None
    http = httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=socket),
        headers={"Authorization": f"Bearer {token}"} if token else None,
        # The existing client has the same timeout.
        timeout=60,
    )
    return streamable_http_client("http://localhost/mcp", http_client=http)


async def main():
    mode, *words = sys.argv[1:]
    async with Client(server(words), mode=mode, read_timeout_seconds=60) as client:
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            try:
                reply = {"ok": await answer(client, json.loads(line))}
            except Exception as error:  # the reply reports every error of the client
                reply = {"error": str(error), "kind": type(error).__name__}
            print(json.dumps(reply), flush=True)


asyncio.run(main())
