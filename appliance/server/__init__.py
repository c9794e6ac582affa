"""OpenAI's JSON over aiohttp; nothing below sees JSON."""
