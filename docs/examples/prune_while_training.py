"""Prune a small language model while its adapters are trained, and save it: python prune_while_training.py DIRECTORY"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import graphprune as gp

SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def main(directory: str) -> None:
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, bos_token_id=None, eos_token_id=None, **SIZES))
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    examples = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 64, (48, 12))]

    arguments = TrainingArguments(
        f"{directory}.run", max_steps=8, per_device_train_batch_size=4, report_to="none", save_strategy="no"
    )
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=1, homogeneous=True)
    Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[callback]).train()

    compact = callback.compact(adapters="merge")
    print(compact.report)
    gp.save(compact, directory)
    print(AutoModelForCausalLM.from_pretrained(directory).config)


if __name__ == "__main__":
    main(sys.argv[1])
