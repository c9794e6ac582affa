"""The frame of all parsers: a grammar written as a generator that is sent one character at a time.

So a parser cannot depend on how its input was cut, and a grammar reads like one for a whole text. What begins like a
call and turns out not to be one comes back as text, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NoReturn, TypeVar

from appliance.text.tool_calls.events import ArgumentsDelta, CallEnd, CallStart, Event, TextDelta
from appliance.text.tool_calls.schemas import ToolSchemas

END = ""  # what a grammar reads after the last character, however often

T = TypeVar("T")
Reading = Generator[None, str, T]

_MAX_NAME_CHARACTERS = 256


class NotACallError(Exception):
    """The character just read does not continue a call."""


class CallMachine:
    """Reads characters, remembers them while a call is only a guess, and collects events; one owner."""

    def __init__(self, tools: ToolSchemas) -> None:
        self._tools = tools
        self._events: list[Event] = []
        self._pieces: list[str] = []  # of the delta that is still growing
        self._blank = ""  # around calls: belongs to the markup unless text follows
        self._beside_call = True
        self._num_calls = 0
        self._is_open = False
        self._raw: list[str] | None = None
        self._last: str | None = None
        self._ahead: list[str] = []
        self._has_ended = False
        self._grammar = self._parse()
        self._has_started = False

    def push(self, text: str) -> list[Event]:
        """Take the next text, cut anywhere; give what is certain now."""
        if not self._has_started:
            self._has_started = True
            next(self._grammar)
        if not self._has_ended:
            for character in text:
                self._grammar.send(character)
        return self._take_events()

    def finish(self) -> list[Event]:
        """Give what was held back, and end a call that was broken off."""
        if self._has_ended:
            return []
        self.push("")
        self._has_ended = True
        try:
            self._grammar.send(END)
        except StopIteration:
            pass
        else:
            raise AssertionError("a grammar reads on after the end")
        if not self._num_calls:
            self._pieces.append(self._blank)
        return self._take_events()

    def _parse(self) -> Reading[None]:
        """Parse a whole message by the grammar of the format; ends after END."""
        raise NotImplementedError

    # Reading

    def _next(self) -> Reading[str]:
        if self._ahead:
            character = self._ahead.pop()
        elif self._has_ended:
            character = END
        else:
            character = yield
        self._last = character
        if self._raw is not None:
            self._raw.append(character)
        return character

    def _next_solid(self) -> Reading[str]:
        """Read up to the next character that is no blank, and return it."""
        character = yield from self._next()
        while character.isspace():
            character = yield from self._next()
        return character

    def _give_back(self) -> None:
        """Let the character just read be read again; once."""
        assert self._last is not None
        self._ahead.append(self._last)
        self._last = None
        if self._raw:
            self._raw.pop()

    def _fail(self) -> NoReturn:
        raise NotACallError

    def _expect(self, text: str) -> Reading[None]:
        for wanted in text:
            if (yield from self._next()) != wanted:
                self._fail()

    def _read_while(self, allowed: str, *, limit: int = _MAX_NAME_CHARACTERS) -> Reading[str]:
        """Read letters, digits and the allowed characters."""
        found: list[str] = []
        while True:
            character = yield from self._next()
            if not (character and (character in allowed or character.isalnum())):
                self._give_back()
                return "".join(found)
            found.append(character)
            if len(found) > limit:
                self._fail()

    def _text_until(self, markers: Sequence[str]) -> Reading[str]:
        """Pass text on up to one of the markers, which is swallowed and returned; END where none comes."""
        openings = {marker[0] for marker in markers}
        held = ""
        while True:
            character = yield from self._next()
            if character == END:
                self._text(held)
                return END
            if not held and character not in openings:
                self._text(character)
                continue
            held += character
            if held in markers:
                return held
            while held and not any(marker.startswith(held) for marker in markers):
                self._text(held[0])
                held = held[1:]

    def _read_calls(
        self,
        read: Callable[[], Reading[None]],
        openings: tuple[str, ...],
        closings: tuple[str, ...] = (),
        *,
        may_be_bare: bool,
    ) -> Reading[None]:
        """Read a whole message: text, and calls after an opening marker.

        Args:
            read: reads one call, or several.
            openings: markers before a call.
            closings: markers after a call; where there was no call they are text.
            may_be_bare: calls need no marker at the beginning of the message and after a call.
        """
        marker = END
        is_inside = False
        while True:
            num_calls = self._num_calls
            while marker or (may_be_bare and self._beside_call):
                if not (yield from self._attempt(read(), marker)):
                    break
                marker = END
            is_inside = is_inside or self._num_calls > num_calls
            marker = yield from self._text_until(openings + closings)
            if marker == END:
                return
            if marker in closings:
                if not is_inside:
                    self._text(marker)
                is_inside = False
                marker = END

    def _attempt(self, body: Reading[None], marker: str) -> Reading[bool]:
        """Read calls; where there are none, what was read becomes text, the marker in front of it too."""
        self._raw = [marker]
        try:
            yield from body
        except NotACallError:
            if self._last is not None:
                self._give_back()
            if self._is_open:
                self._end_call()
            elif self._raw:
                self._text("".join(self._raw))
            return False
        finally:
            self._raw = None
        return True

    # Events

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._beside_call:
            self._blank += text
            text = self._blank
            if text.isspace():
                return
            self._blank = ""
            self._beside_call = False
        self._pieces.append(text)

    def _start_call(self, name: str) -> None:
        self._flush()
        self._blank = ""
        self._is_open = True
        self._raw = None
        self._events.append(CallStart(self._num_calls, name))

    def _arguments(self, text: str) -> None:
        self._pieces.append(text)

    def _end_call(self) -> None:
        self._flush()
        self._is_open = False
        self._beside_call = True
        self._raw = []
        self._events.append(CallEnd(self._num_calls))
        self._num_calls += 1

    def _whole_call(self, name: str, arguments: str) -> None:
        self._start_call(name)
        self._arguments(arguments)
        self._end_call()

    def _flush(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        if text:
            self._events.append(ArgumentsDelta(self._num_calls, text) if self._is_open else TextDelta(text))

    def _take_events(self) -> list[Event]:
        self._flush()
        events, self._events = self._events, []
        return events


def whole_characters(text: str) -> str:
    """Join or replace surrogates, which escapes of a model can spell: text must encode."""
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
