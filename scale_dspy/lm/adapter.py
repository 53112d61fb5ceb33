"""How a Signature becomes a prompt, and a reply the value of its one output field."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

import dspy

from scale_dspy.lm.chat import ChatChoice, read_choices
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.lm.modes import PARTNER
from scale_dspy.lm.plain_lm import ask_plain_lm
from scale_dspy.lm.streaming import stream_reply

BESIDE = ("reasoning", "cut_off", "logprobs")
"""What travels beside a prediction's one output."""

# Lone surrogates, which UTF-8 cannot hold, and control characters, which could rewrite a terminal.
# A backspace and a form feed stay: they are what JSON makes of \\boxed and \\frac, see answers.py.
_HARMFUL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
)
"""Tags that models set around their thinking, opening and closing; a text has those of one kind."""


class PlainAdapter(dspy.Adapter):
    r"""One user message: the inputs in order, each under its title, then the instructions.

    Against DSPy's own adapters: no field markers and no description of them (about 700 characters
    a call), no JSON and no lists, where `\frac` turns into a form feed and "rac". And because the
    instructions come last, all stages share the beginning (problem, context, sub-problem), which
    vLLM's prefix cache then holds. What a reply must look like is the output field's description,
    so it stays when an optimizer rewrites the instructions.
    """

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        content = self.format_user_message_content(signature, inputs, main_request=True)
        messages = [*self.format_demos(signature, demos), {"role": "user", "content": content}]
        return [{**message, "content": mend(message["content"])} for message in messages]

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        sections = [
            f"{field.json_schema_extra['desc']}:\n{inputs[name]}"
            for name, field in signature.input_fields.items()
            if inputs.get(name)
        ]
        if main_request:
            (output,) = signature.output_fields.values()
            sections.append(f"{signature.instructions}\n\nReply with {_describe(output)}.")
        return "\n\n".join(part for part in [prefix, *sections, suffix] if part)

    def format_assistant_message_content(
        self,
        signature: type[dspy.Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        (name,) = signature.output_fields
        return str(outputs.get(name, missing_field_message))

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        (name,) = signature.output_fields
        return {name: completion}

    def __call__(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        return run(self.acall(lm, lm_kwargs, signature, demos, inputs))

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        messages = self.format(signature, demos, inputs)
        with _stream(signature, lm_kwargs):
            return self._read(signature, await self._call(lm, lm_kwargs, messages))

    async def _call(
        self, lm: Any, lm_kwargs: dict[str, Any], messages: list[dict[str, Any]]
    ) -> list[ChatChoice]:
        if not isinstance(lm, MeteredLM):
            return await ask_plain_lm(lm, messages, lm_kwargs)
        rollout = {"rollout_id": lm.kwargs.get("rollout_id"), **lm_kwargs}
        lm = lm.find_lm(rollout)
        config = {name: value for name, value in rollout.items() if name != PARTNER}
        return read_choices(await lm.acall(lm.make_request(messages, config)))

    def _read(
        self, signature: type[dspy.Signature], found: list[ChatChoice]
    ) -> list[dict[str, Any]]:
        """Choices as field values; those of BESIDE travel beside the one output."""
        choices = []
        for choice in found:
            text, reasoning = split_thinking(mend(choice.text))
            choices.append(
                {
                    **self.parse(signature, text),
                    "reasoning": mend(choice.reasoning or reasoning),
                    "cut_off": choice.finish_reason == "length",
                    "logprobs": None if choice.logprobs is None else tuple(choice.logprobs),
                }
            )
        return choices


def mend(text: str) -> str:
    """A text that can be sent, written to a file as UTF-8 and shown on a terminal."""
    return _HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text)


def split_thinking(text: str) -> tuple[str, str]:
    """Part a reply into (content, thinking) where the server left the tags in the content.

    A block that is never closed is thinking to its end, so nothing in it passes for an answer.

    >>> split_thinking("<thinking>so</thinking>7"), split_thinking("[THINK]so[/THINK]7")
    (('7', 'so'), ('7', 'so'))
    """
    for opening, closing in THINKING:
        if opening in text or closing in text:
            break
    else:
        return text.strip(), ""
    before, opened, rest = text.partition(opening)
    if not opened:  # the opening tag was part of the prompt
        before, rest = "", text
    thinking, _, content = rest.rpartition(closing) if closing in rest else (rest, "", "")
    return (before + content).strip(), thinking.strip()


def _stream(
    signature: type[dspy.Signature], lm_kwargs: dict[str, Any]
) -> AbstractContextManager[None]:
    (name,) = signature.output_fields
    return stream_reply(name, lm_kwargs.get("n") or 1)


def _describe(field: Any) -> str:
    return str(field.json_schema_extra["desc"]).rstrip(".")
