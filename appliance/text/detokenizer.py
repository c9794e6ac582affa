"""Tokens to text, a token at a time: whole characters only, nothing beyond a stop string, nothing said twice."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Sequence

from appliance.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one stream; owned by whoever reads that stream.

    What `push` and `finish` give, joined, depends on the tokens only and not on how they arrive. Bytes that are no
    UTF-8 become U+FFFD. Generation ends at the first character that completes a stop string.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        visible: Collection[str] = (),
        keeps_leading_blank: bool = False,
    ) -> None:
        """Start at the first generated token.

        Args:
            tokenizer: the model's.
            stop: texts that end the stream; a special token's text counts where that token is generated.
            visible: texts of special tokens that are to appear, such as the markers of tool calls.
            keeps_leading_blank: the text continues one before it, so a blank that begins it belongs to it.
        """
        shown = {tokenizer.special_tokens[text] for text in visible if text in tokenizer.special_tokens}
        self._bytes = tokenizer.vocabulary_bytes
        self._hidden = tokenizer.special_ids - shown
        self._stop_ids = {id_: text for text, id_ in tokenizer.special_tokens.items() if text in stop}
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = StopStrings(stop)
        self._drops_blank = tokenizer.has_leading_blank and not keeps_leading_blank

    @property
    def stopped(self) -> bool:
        """True after a stop string was met; no text follows."""
        return self._stops.found is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that was met."""
        return self._stops.found

    def push(self, token: int) -> str:
        """Take one token; give the text that can be shown now, often none."""
        if token in self._hidden:
            return self._stops.end(self._stop_ids[token]) if token in self._stop_ids else ""
        data = self._bytes[token] if 0 <= token < len(self._bytes) else b""
        if self._drops_blank and data:
            self._drops_blank = False
            data = data.removeprefix(b" ")
        text = self._decode(data)
        return self._stops.push(text) if text else ""

    def finish(self) -> str:
        """Return the text that was held back; an unfinished character becomes U+FFFD."""
        return self._stops.push(self._decode(b"", True)) + self._stops.finish()


class StopStrings:
    """Cuts a text before the first stop string that completes in it; one owner."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(dict.fromkeys(text for text in stop if text))
        self._opening = re.compile("|".join(re.escape(text[0]) for text in self._stop))
        self._max_held = max(map(len, self._stop), default=1) - 1
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Add text; give what no stop string can reach any more."""
        if self.found is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        size = self._num_held(text)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def finish(self) -> str:
        """Return the text held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held

    def end(self, stop: str) -> str:
        """Return the text held back, and nothing from now on: a stop string came as a token of its own."""
        held = self.finish()
        if self.found is None:
            self.found = stop
        return held

    def _num_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for match in self._opening.finditer(text, max(0, len(text) - self._max_held)):
            end = text[match.start() :]
            if any(stop.startswith(end) for stop in self._stop):
                return len(end)
        return 0
