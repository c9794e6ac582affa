"""`lantern chat` against a real server on a real port."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.cli import chat
from appliance.cli.chat_client import ChatError
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from .conftest import Play

_ROOT = Path(__file__).parents[2]


def event(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}], 'usage': None})}\n\n".encode()


_USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\n'
_DONE = b"data: [DONE]\n\n"


def run(play: Play, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return chat.run(parser.parse_args(["--device", play.base_url, *arguments]))


def test_one_prompt_is_answered_and_streamed_as_plain_openai(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    stream = b": ping\n\n" + event("") + event("Grüße, ") + event("Welt") + _USAGE + _DONE
    play.script = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    assert run(play, "--model", "m", "--system", "Be brief.", "--temperature", "0.5", "Hello") == 0
    assert capsys.readouterr().out == "Grüße, Welt\n"
    assert play.requests == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
        }
    ]


def test_the_first_model_that_chats_is_taken(play: Play) -> None:
    play.script = [event("x"), _DONE]
    run(play, "Hello")
    assert play.requests[0]["model"] == "chatty"


def test_standard_input_that_is_no_terminal_is_the_prompt(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("From a pipe\n"))
    play.script = [event("x"), _DONE]
    run(play)
    assert play.requests[0]["messages"] == [{"role": "user", "content": "From a pipe"}]


def test_stats_tell_the_number_of_tokens(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play.script = [event("a"), event("b"), _USAGE, _DONE]
    run(play, "--stats", "Hello")
    assert "5 tokens" in capsys.readouterr().err


def test_the_key_goes_to_a_server_that_was_named(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANTERN_API_KEY", "sk-lantern")
    play.script = [event("x"), _DONE]
    run(play, "--model", "m", "Hello")
    assert play.headers[0]["Authorization"] == "Bearer sk-lantern"


def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent(play: Play) -> None:
    with pytest.raises(ConfigError, match="API key"):
        run(play, "--key", "two\nlines", "Hello")
    assert play.headers == []


def test_an_error_object_becomes_one_sentence(play: Play) -> None:
    play.status = 404
    play.script = [
        b'{"error": {"message": "The model \'m\' does not exist.", "type": "x", "param": null, "code": "y"}}'
    ]
    with pytest.raises(ChatError, match=r"^The server refuses \(404\): The model 'm' does not exist\.$"):
        run(play, "--model", "m", "Hello")


def test_a_refused_key_says_where_to_give_one(play: Play) -> None:
    play.status = 401
    play.script = [b'{"error": {"message": "No key."}}']
    with pytest.raises(ChatError, match=r"--key or LANTERN_API_KEY"):
        run(play, "--model", "m", "Hello")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 7}', b"[" * 100_000])
def test_an_answer_that_is_no_error_object_is_a_sentence_too(play: Play, body: bytes) -> None:
    play.status, play.script = 502, [body]
    with pytest.raises(ChatError, match=r"\(502\): it gives no reason"):
        run(play, "--model", "m", "Hello")


def test_an_error_in_the_midst_of_the_stream_is_shown_after_the_text(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    play.script = [event("Half"), b'data: {"error": {"message": "The model failed."}}\n\n']
    with pytest.raises(ChatError, match=r"^The model failed\.$"):
        run(play, "--model", "m", "Hello")
    assert capsys.readouterr().out == "Half"


def test_a_stream_that_breaks_off_is_an_error(play: Play) -> None:
    play.script = [event("Half")]
    with pytest.raises(ChatError, match="in its midst"):
        run(play, "--model", "m", "Hello")


def test_foreign_event_data_is_passed_over(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    odd = [b"data: nonsense\n\n", b"data: []\n\n", b'data: {"choices": [7]}\n\n', b'data: {"choices": {}}\n\n']
    odd += [
        b'data: {"choices": [{"delta": {"content": null}}]}\n\n',
        b'data: {"usage": {"completion_tokens": "x"}}\n\n',
    ]
    play.script = [*odd, event("ok"), _DONE]
    assert run(play, "--model", "m", "Hello") == 0
    assert capsys.readouterr().out == "ok\n"


def test_a_server_that_is_not_there_is_a_sentence() -> None:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    with pytest.raises(ChatError, match=r"http://127\.0\.0\.1:1/v1 cannot be reached"):
        chat.run(parser.parse_args(["--device", "127.0.0.1:1", "Hello"]))


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://user@host", "http://a b", "http://x/v1?key=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    with pytest.raises(ConfigError, match="is no base URL"):
        chat.run(parser.parse_args(["--device", url, "Hello"]))


def test_an_empty_prompt_is_refused(play: Play) -> None:
    with pytest.raises(ConfigError, match="empty"):
        run(play, "--model", "m", "  ")
    assert play.requests == []


def test_ctrl_c_stops_the_answer_and_closes_the_connection(play: Play) -> None:
    play.script = [event("First"), b"(hold)"]
    with _chat(play, "--model", "m", "Hello") as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"First"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert play.client_left.wait(10)


def test_a_conversation_remembers_its_turns_and_its_model(play: Play) -> None:
    play.script = [event("Yes."), _DONE]
    answered = _talk(play, "One", "Two", "/model other", "Three", "/reset", "Four", "/nonsense", "/help")
    assert answered == b"Yes.\r\n" * 4
    turns = [[message["content"] for message in request["messages"]] for request in play.requests]
    assert turns == [["One"], ["One", "Yes.", "Two"], ["One", "Yes.", "Two", "Yes.", "Three"], ["Four"]]
    assert [request["model"] for request in play.requests] == ["m", "m", "other", "other"]


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(play: Play) -> None:
    play.script = [event("\x1b]0;owned\x07red\x9b31m"), _DONE]
    assert _talk(play, "Hello") == b"]0;ownedred31m\r\n"


def _chat(play: Play, *arguments: str, **options: int) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    program = (
        "import argparse, sys; from appliance.cli import chat; parser = argparse.ArgumentParser();"
        "chat.add_arguments(parser); sys.exit(chat.run(parser.parse_args()))"
    )
    command = [sys.executable, "-W", "error", "-c", program, "--device", play.base_url, *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(_ROOT)}, **streams)  # type: ignore[call-overload,no-any-return]


def _talk(play: Play, *lines: str) -> bytes:
    """Type the lines on a terminal, leave with Ctrl-D, and return what was answered on another one."""
    keyboard, stdin = os.openpty()
    screen, stdout = os.openpty()
    with _chat(play, "--model", "m", stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL) as process:
        os.close(stdin)
        os.close(stdout)
        os.write(keyboard, "".join(f"{line}\n" for line in lines).encode() + b"\x04")
        answered = b""
        try:
            while chunk := os.read(screen, 4096):
                answered += chunk
        except OSError:
            pass  # the terminal's other end is closed
        assert process.wait(10) == 0
    os.close(keyboard)
    os.close(screen)
    return answered.replace(b"> ", b"").removesuffix(b"\r\n")
