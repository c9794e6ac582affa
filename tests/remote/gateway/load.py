"""Clients of a gateway: a script that keeps asking, and tells at the end how many answers and which errors there were.

No client retries, so that every error is one that a program would have seen. Ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import openai

_PROMPT = "Count from one to twenty."


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def ask(client: openai.AsyncOpenAI, model: str, *, stream: bool) -> None:
    """One whole answer, with nothing missing at its end."""
    completions = client.chat.completions
    if stream:
        chunks = await completions.create(
            model=model, messages=[{"role": "user", "content": _PROMPT}], max_tokens=12, stream=True
        )
        reasons = [chunk.choices[0].finish_reason async for chunk in chunks if chunk.choices]
    else:
        answer = await completions.create(model=model, messages=[{"role": "user", "content": _PROMPT}], max_tokens=12)
        reasons = [answer.choices[0].finish_reason]
    assert reasons[-1] in {"length", "stop"}, reasons


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--key")
    parser.add_argument("--model")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    counts = {"answers": 0}
    errors: list[str] = []
    done = asyncio.Event()

    async def work(client: openai.AsyncOpenAI) -> None:
        while not done.is_set():
            try:
                await ask(client, args.model, stream=args.stream)
                counts["answers"] += 1
            except (openai.OpenAIError, AssertionError) as err:
                errors.append(f"{type(err).__name__}: {err}"[:500])

    async def tell() -> None:
        while True:
            say(event="asked", errors=errors[:5], **counts)
            await asyncio.sleep(0.5)

    stop = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stop), sys.stdin)
    async with openai.AsyncOpenAI(base_url=args.url, api_key=args.key, max_retries=0, timeout=120) as client:
        telling = asyncio.create_task(tell())
        workers = [asyncio.create_task(work(client)) for _ in range(args.workers)]
        await stop.readline()
        done.set()
        await asyncio.gather(*workers)
        telling.cancel()
    say(event="ended", errors=errors[:5], num_errors=len(errors), **counts)


if __name__ == "__main__":
    asyncio.run(main())
