"""The lm-eval harness on a pruned model, with a task on local data: the one that docs/evaluation.md shows."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune as gp
from graphprune.sources import load_model

from .tiny import save_tiny_llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs graphprune[lm-eval]"),
]

DOCUMENTATION = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
TASK = "letters"
ITEMS = [
    {"question": f"After {letter} comes", "choices": [wrong, chr(ord(letter) + 1)], "answer": 1}
    for letter, wrong in zip("abcdefghijkl", "qzxwvyzuqxzw", strict=True)
]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """The directory of the task."""
    body = re.search(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    assert body is not None
    directory = tmp_path / "tasks"
    directory.mkdir()
    data = directory / "letters.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    (directory / "letters.yaml").write_text(body[1].replace("tasks/letters.jsonl", str(data)), encoding="utf-8")
    return directory


def pruned(directory: Path, model: Path, **selection: Any) -> Path:
    module, tokenizer = load_model(model)
    compact = gp.prune(module, ratio=0.3, **selection)
    gp.save(compact, directory, tokenizer)
    return directory


def accuracy(model: Any, tokenizer: Any) -> float:
    """The share of the items whose right answer has the highest log likelihood, by the definition."""
    right = 0
    for item in ITEMS:
        question = tokenizer(item["question"])["input_ids"]
        likelihoods = []
        for choice in item["choices"]:
            ids = torch.tensor([question + tokenizer(f" {choice}")["input_ids"]])  # the harness puts a space between
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            likelihoods.append(float(logits.gather(1, ids[0, 1:, None])[len(question) - 1 :].sum()))
        right += likelihoods.index(max(likelihoods)) == item["answer"]
    return right / len(ITEMS)


def offline(*command: str) -> str:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_command(tmp_path: Path, task: Path) -> None:
    model = pruned(tmp_path / "small", save_tiny_llama(tmp_path / "tiny"), homogeneous=True)
    command = f"-m lm_eval --model hf --model_args pretrained={model} --tasks {TASK} --include_path {task}"
    offline(sys.executable, *command.split(), "--device", "cpu", "--output_path", str(tmp_path / "results"))
    (results,) = (tmp_path / "results").rglob("*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"][TASK]["acc,none"]
    assert found == pytest.approx(accuracy(*load_model(model)))
    assert 0 < found < 1


def test_a_model_whose_layers_differ(tmp_path: Path, task: Path) -> None:
    model = pruned(tmp_path / "small", save_tiny_llama(tmp_path / "tiny"), form="module")
    assert "auto_map" in json.loads((model / "config.json").read_text(encoding="utf-8"))
    example = re.search(r"```python\n(import lm_eval\n.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    code = example[1].replace('"OUT"', repr(str(model))).replace('"tasks"', repr(str(task)))
    output = offline(sys.executable, "-c", f'{code}\nprint("found", results["results"]["{TASK}"]["acc,none"])')
    _, tokenizer = load_model(tmp_path / "tiny")
    assert float(output.split("found ")[1]) == pytest.approx(accuracy(gp.load(model), tokenizer))
