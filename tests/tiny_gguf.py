"""A tiny GGUF model of random weights whose chat template switches thinking as Qwen3's does.

It proves plumbing: what llama.cpp makes of the switch, and that the file is served at all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZE, LAYERS, HEADS, CONTEXT = 64, 2, 2, 4096
TEMPLATE = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and message.reasoning_content -%}
{{ '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif -%}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking -%}
{{ '<think>\\n\\n</think>\\n\\n' }}
{%- else -%}
{{ '<think>\\n' }}
{%- endif -%}
{%- endif -%}
""".strip("\n")
SPECIAL = ["<|im_end|>", "<|im_start|>"]  # the tags are none, or chance would write them


def write_gguf(path: Path, template: str = TEMPLATE) -> Path:
    """Write the model."""
    import gguf

    tokens = [*_list_bytes(), "Ġt", *SPECIAL]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * SIZE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(SIZE // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for name, shape in _list_tensors(len(tokens)).items():
        writer.add_tensor(name, _draw(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _list_bytes() -> list[str]:
    """The characters that stand for the 256 bytes in a byte-level vocabulary, in their order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable}
    return [shown[byte] if byte in shown else chr(256 + others.index(byte)) for byte in range(256)]


def _list_tensors(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, SIZE),
        "output_norm.weight": (SIZE,),
        "output.weight": (vocabulary, SIZE),
    }
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{part}.weight"] = (SIZE, SIZE)
        shapes[f"blk.{layer}.ffn_gate.weight"] = (2 * SIZE, SIZE)
        shapes[f"blk.{layer}.ffn_up.weight"] = (2 * SIZE, SIZE)
        shapes[f"blk.{layer}.ffn_down.weight"] = (SIZE, 2 * SIZE)
        for norm in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{norm}.weight"] = (SIZE,)
    return shapes


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    chance = np.random.default_rng(len(name))
    return chance.normal(0, 0.3, shape).astype(np.float32)
