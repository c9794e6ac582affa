"""List the devices on the local network, then ask one of them, without an address or a key in the program.

Run it on another machine than the device's, in a checkout: `pip install '.[client]'`, then
`python find_a_device.py [NAME]`.
"""

from __future__ import annotations

import asyncio
import sys

from appliance.client import find, openai_client


async def list_devices() -> None:
    """Print each device as it is found. Records are hints: any machine can send one."""
    async for device in find(timeout_s=3.0):
        print(f"{device.name:20} {device.base_url:40} {device.state}, {device.num_models} models")


asyncio.run(list_devices())

# The certificate is remembered on first use and compared before anything is sent. The key comes from LANTERN_API_KEY or
# the platform's keyring, where `lantern claim` puts it.
client = openai_client(name=sys.argv[1] if len(sys.argv) > 1 else None, model="smollm2-135m-instruct")
completion = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": "Name the capital city of France."}],
    temperature=0,
    max_completion_tokens=40,
)
print(completion.choices[0].message.content)
