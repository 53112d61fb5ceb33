"""Fine-tune a model without a thinking mode on traces (the paper's second setting), with TRL.

    scale-dspy traces limo --out traces.jsonl --samples 4
    python optimize/finetune.py traces.jsonl --model Qwen/Qwen2.5-7B-Instruct --out runs/q7b

Low-rank adapters by default, every weight with --full. The loss is on the response alone.
README.md in this folder has the command lines for larger models, and says how to serve and evaluate
the result.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("traces", help="a file of `scale-dspy traces`, .jsonl or .parquet")
    parser.add_argument("--model", required=True, help="a hub path or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--full", action="store_true", help="every weight, not low-rank adapters")
    parser.add_argument("--rank", type=int, default=32, help="of the adapters")
    parser.add_argument("--learning-rate", type=float, help="1e-4; 1e-5 with --full")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--steps", type=int, default=-1, help="instead of epochs")
    parser.add_argument("--batch", type=int, default=16, help="records a step and a process")
    parser.add_argument("--max-length", type=int, default=16_384, help="tokens of a record")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trainer = SFTTrainer(
        model=arguments.model,
        args=make_config(arguments),
        train_dataset=load_traces(arguments.traces, arguments.model, arguments.max_length),
        peft_config=None if arguments.full else make_adapter(arguments.rank),
    )
    trainer.train()
    trainer.save_model(str(arguments.out))
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    if trainer.is_world_process_zero():
        text = json.dumps({"traces": arguments.traces, "model": arguments.model, "loss": losses})
        (arguments.out / "losses.json").write_text(text, encoding="utf-8")
        logging.info("%s is written, last loss %.4f", arguments.out, losses[-1])


def load_traces(path: str, model: str, max_length: int) -> Any:
    """Prompt and completion of each record, so that the loss is on the completion alone.

    A record longer than `max_length` tokens is left out: cut off, it would teach the model to give
    no answer.
    """
    form = "parquet" if path.endswith(".parquet") else "json"
    traces = load_dataset(form, data_files=path, split="train")
    tokenizer = AutoTokenizer.from_pretrained(model)

    def fits(row: dict[str, Any]) -> bool:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        return len(tokenizer(text)["input_ids"]) <= max_length

    short = traces.filter(fits)
    logging.info("%d of %d records have at most %d tokens", len(short), len(traces), max_length)
    return short.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=short.column_names,
    )


def make_config(arguments: argparse.Namespace) -> SFTConfig:
    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(arguments.out / "checkpoints"),
        learning_rate=arguments.learning_rate or (1e-5 if arguments.full else 1e-4),
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        num_train_epochs=arguments.epochs,
        max_steps=arguments.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=arguments.batch,
        gradient_checkpointing=gpu,
        bf16=gpu,
        use_cpu=not gpu,
        max_length=arguments.max_length,
        completion_only_loss=True,
        logging_steps=1,
        save_strategy="epoch" if arguments.steps < 0 else "no",
        save_only_model=True,
        report_to="none",
        seed=arguments.seed,
        model_init_kwargs={"dtype": "bfloat16" if gpu else "float32"},
    )


def make_adapter(rank: int) -> LoraConfig:
    """Adapters on all linear layers; vLLM serves them with --enable-lora --max-lora-rank RANK."""
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


if __name__ == "__main__":
    main()
