"""A command's output, whole: what an answer leaves out of its middle is fetched from where it is kept."""

from __future__ import annotations

import base64

from orchestrator.client import Client
from protocol.messages.base import Encoding, Gap
from protocol.messages.commands import Command, CommandAnswer, StderrBytes, StdoutBytes


async def collected(client: Client, request: Command) -> tuple[CommandAnswer, bytes, bytes]:
    """Run ``request``, whose encoding is base64: its answer, standard output and standard error.

    The tool server keeps the newest 64 MiB of each; of more, a line in the bytes tells what is gone.
    """
    assert request.encoding is Encoding.BASE64
    answer = await client.call(request)
    assert isinstance(answer, CommandAnswer)
    if not answer.truncated:
        return answer, base64.b64decode(answer.stdout), base64.b64decode(answer.stderr)
    return await _replayed(client, answer)


async def _replayed(client: Client, answer: CommandAnswer) -> tuple[CommandAnswer, bytes, bytes]:
    parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    follow = client.attach.stream(process_id=answer.process_id, raw_events=True, max_output_bytes=0)
    async with follow as events:
        async for event in events:
            if isinstance(event, Gap):
                lost = f"[… {event.missing_bytes} bytes are no longer kept …]\n"
                parts[event.stream].append(lost.encode())
            elif isinstance(event, StdoutBytes):
                parts["stdout"].append(event.data)
            elif isinstance(event, StderrBytes):
                parts["stderr"].append(event.data)
        await events.result()
    return answer, b"".join(parts["stdout"]), b"".join(parts["stderr"])


def encoded(content: str | bytes) -> tuple[str, Encoding]:
    """Content as a message holds it.

    >>> encoded(b"\\xff")
    ('/w==', <Encoding.BASE64: 'base64'>)
    """
    if isinstance(content, str):
        return content, Encoding.UTF8
    return base64.b64encode(content).decode(), Encoding.BASE64
