"""Makes a tiny model of random weights with a real one's shape: it proves plumbing, not quality.

    python tests/vllm/tiny_model.py FOLDER hybrid|reasoning|plain < text

Runs under the interpreter that has vLLM, and needs nothing of this project. The tokenizer is
trained on the text of standard input. The weights are those of a Qwen3 but for one thing: the end
token is always among the likeliest twenty, so that replies end after some dozens of tokens. The
tags of thinking are never likely, so a thinking block ends where the server ends it.

Templates: `hybrid` switches thinking as Qwen3 does. `reasoning` is that of the R1 distillations: it
always opens a thinking block, and drops the thinking that an assistant message brings along.
`plain` has no thinking mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 4096
END, TAGS = "<|im_end|>", ["<think>", "</think>"]
TEMPLATES = {
    "hybrid": """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- if not (continue_final_message and loop.last) %}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking -%}
{{ '<think>\\n\\n</think>\\n\\n' }}
{%- else -%}
{{ '<think>\\n' }}
{%- endif -%}
{%- endif -%}
""",
    "reasoning": """
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
<|assistant|>{{ message.content.split('</think>')[-1] }}<|im_end|>
{%- else -%}
<|user|>{{ message.content }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|><think>\\n' }}
{%- endif -%}
""",
    "plain": """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
""",
}


def main(folder: Path, template: str) -> None:
    tokenizer = train_tokenizer(sys.stdin.read())
    tokenizer.chat_template = TEMPLATES[template].strip("\n")
    torch.manual_seed(0)
    make_model(tokenizer).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(text: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=[END, "<|im_start|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text.splitlines(keepends=True), trainer)
    bpe.add_tokens(TAGS)  # as in Qwen3, these are no special tokens: they stay in the text
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=40_960,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        embedded, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        torch.nn.init.normal_(head, std=0.1)  # logits of standard deviation one
        # What all embeddings share comes out at the end of every position as good as unchanged.
        shared = torch.randn(config.hidden_size)
        shared /= shared.norm()
        embedded.add_(2 * shared)
        head.sub_(torch.outer(head @ shared, shared))
        head[tokenizer.convert_tokens_to_ids(TAGS)] = 0
        head[len(tokenizer) :] = 0  # beyond what the tokenizer knows
        head[tokenizer.eos_token_id] = 0
        hidden = model.model(torch.randint(300, 3000, (1, 256))).last_hidden_state[0]
        tenth = (hidden @ head.T).topk(10).values[:, -1].mean()
        head[tokenizer.eos_token_id] = shared * tenth / (hidden @ shared).mean()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
