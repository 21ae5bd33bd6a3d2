"""Chats and tokenizers with chat templates, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.made_tokenizers import byte_level
from tokenizers import decoders

PLAIN = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As ChatML has it. What the assistant says is found by rendering prefixes."""
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The same with the marks of transformers around it."""
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last or m.role == 'user' %}{{ m.content }}"
    "{% else %}...{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Renders a turn otherwise once another follows."""

Row = dict[str, Any]


def chat_tokenizer(folder: Path, template: str | None = PLAIN, further: tuple[str, ...] = ()) -> Path:
    """A folder as `save_pretrained` writes it."""
    from transformers import PreTrainedTokenizerFast

    model = byte_level(300)
    model.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>", bos_token="<s>")
    special = ["<|im_start|>", "<|im_end|>", *further]
    made.add_special_tokens({"additional_special_tokens": special, "pad_token": "<pad>"})
    made.chat_template = template
    made.save_pretrained(folder)
    return folder


def row(*turns: str) -> Row:
    """A chat of turns, the user's first."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]}


def write_chats(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def many(count: int) -> list[Row]:
    """Chats of one to three answers each, all different."""
    return [
        row(*[f"{('say', 'it is')[turn % 2]} {number * 7 + turn}" for turn in range(2 + 2 * (number % 3))])
        for number in range(count)
    ]
