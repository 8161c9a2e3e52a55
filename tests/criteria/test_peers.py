"""Criteria against what the code that their authors released computes, written out here as it is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.traced import TracedModel
from tests.models import tiny_llama, tokens

HEADS, HEAD_DIM = 6, 8
BATCHES = [{"input_ids": tokens(1, 16, seed=seed)} for seed in range(4)]
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"


def traced_llama(**options: Any) -> TracedModel:
    """LLaMA as the authors had it: as many KV heads as query heads."""
    return gp.trace(tiny_llama(kv=HEADS, rep=1, **options), kwargs={"input_ids": tokens()})


def compute_sensitivity(lora: Any, is_attn: bool, transpose: bool) -> Tensor:
    """``loraprune.utils.compute_sensitivity`` of aim-uofa/LoRAPrune, with peft's names."""
    a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    grad = b.grad @ a + b @ a.grad - b.grad @ a.grad
    s = (grad * (b @ a * lora.scaling["default"] + lora.get_base_layer().weight)).abs()
    if transpose:
        s = s.t()
    if is_attn:
        s = s.reshape(s.shape[0] // HEAD_DIM, -1)
    s = s.sum(1)
    return (s / (torch.linalg.norm(s) + 1e-8)).detach()


def test_lora_as_released() -> None:
    traced = traced_llama(peft=True, tied=False)
    traced.module.eval()
    traced.module(**BATCHES[0], labels=BATCHES[0]["input_ids"]).loss.backward()
    attention: Any = traced.module.get_submodule(f"base_model.model.{ATTENTION}")
    mlp: Any = traced.module.get_submodule(f"base_model.model.{MLP}")
    heads = [compute_sensitivity(each, True, False) for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    heads.append(compute_sensitivity(attention.o_proj, True, True))
    channels = [compute_sensitivity(each, False, False) for each in (mlp.gate_proj, mlp.up_proj)]
    channels.append(compute_sensitivity(mlp.down_proj, False, True))
    scores = gp.score(traced, "lora", variant="released")
    assert torch.allclose(scores[f"base_model.model.{ATTENTION}:heads"], sum(heads), rtol=1e-3)
    assert torch.allclose(scores[f"base_model.model.{MLP}:channels"], sum(channels), rtol=1e-3)


def llm_pruner(modules: list[tuple[nn.Linear, bool]], taylor: str, consecutive: int) -> Tensor:
    """``TaylorImportance`` of horseee/LLM-Pruner for a group of linear layers, of which some lose input channels.

    ``.grad`` is the gradient of the whole set, ``acc_grad`` the mean of the squares of those of its examples.
    """
    total = torch.zeros(())
    for module, is_input in modules:
        weight, grad, acc_grad = module.weight, module.weight.grad, module.acc_grad
        assert grad is not None
        salience = weight * grad
        if taylor == "param_second":
            salience = weight * acc_grad * weight
        elif taylor == "param_mix":
            salience = salience - 0.5 * weight * acc_grad * weight
        dim = 0 if is_input else 1
        total = total + (salience.sum(dim).abs() if taylor == "vectorize" else salience.abs().sum(dim))
    return total.detach().view(-1, consecutive).sum(1)


@pytest.mark.parametrize(
    ("taylor", "options"),
    [
        ("param_first", {"order": "first"}),
        ("param_second", {"order": "second"}),
        ("param_mix", {"order": "mixed"}),
        ("vectorize", {"level": "vector"}),
    ],
)
def test_taylor_as_llm_pruner_has_it(taylor: str, options: dict[str, Any]) -> None:
    traced = traced_llama()
    scores = gp.score(traced, "taylor", data=BATCHES, **options)
    model: Any = traced.module
    for batch in BATCHES:
        model(**batch, labels=batch["input_ids"]).loss.backward()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                squared = module.weight.grad * module.weight.grad / len(BATCHES)
                module.acc_grad = getattr(module, "acc_grad", 0) + squared
        model.zero_grad()
    ids = torch.cat([batch["input_ids"] for batch in BATCHES])
    model(input_ids=ids, labels=ids).loss.backward()
    attention, mlp = model.get_submodule(ATTENTION), model.get_submodule(MLP)
    heads = [(attention.q_proj, False), (attention.k_proj, False), (attention.v_proj, False), (attention.o_proj, True)]
    channels = [(mlp.gate_proj, False), (mlp.up_proj, False), (mlp.down_proj, True)]
    for name, modules, consecutive in ((f"{ATTENTION}:heads", heads, HEAD_DIM), (f"{MLP}:channels", channels, 1)):
        expected = llm_pruner(modules, taylor, consecutive)
        assert torch.allclose(scores[name], expected, rtol=1e-3, atol=1e-4 * float(expected.max())), name


def inputs_of(traced: TracedModel, path: str) -> Tensor:
    """What a linear layer gets on all batches, ``[tokens, features]``."""
    caught: list[Tensor] = []
    take: Callable[..., None] = lambda _, args: caught.append(args[0].detach().flatten(0, -2))  # noqa: E731
    handle = traced.module.get_submodule(path).register_forward_pre_hook(take)
    with torch.no_grad():
        for batch in BATCHES:
            traced.module(**batch)
    handle.remove()
    return torch.cat(caught)


def test_wanda_sp_as_flap_has_it() -> None:
    """``prune_wanda_sp`` of CASIA-IVA-Lab/FLAP, which takes the mean over rows and over samples."""
    traced = traced_llama()
    scores = gp.score(traced, "wanda_sp", data=BATCHES)
    for name, path, consecutive in (
        (f"{ATTENTION}:heads", f"{ATTENTION}.o_proj", HEAD_DIM),
        (f"{MLP}:channels", f"{MLP}.down_proj", 1),
    ):
        weight: Any = traced.module.get_submodule(path).weight
        scaler_row = inputs_of(traced, path).square().sum(0) / len(BATCHES)
        metric = (weight.detach().abs() * torch.sqrt(scaler_row.reshape((1, -1)))).mean(axis=0)
        expected = metric.reshape(-1, consecutive).sum(dim=1) * weight.shape[0] * len(BATCHES) ** 0.5
        assert torch.allclose(scores[name], expected, rtol=1e-4), name


def test_flap_ranks_as_the_paper_says() -> None:
    """``WIFV`` and ``AL-AM`` of CASIA-IVA-Lab/FLAP, with the variance over tokens that the paper writes down."""
    traced = traced_llama()
    scores = gp.score(traced, "flap", data=BATCHES)
    found, expected = [], []
    for index in range(2):
        for kind, path, consecutive in (
            ("self_attn:heads", "self_attn.o_proj", HEAD_DIM),
            ("mlp:channels", "mlp.down_proj", 1),
        ):
            module: Any = traced.module.get_submodule(f"model.layers.{index}.{path}")
            fluctuation = inputs_of(traced, f"model.layers.{index}.{path}").var(0)
            metric = fluctuation * torch.sum(module.weight.detach().pow(2), dim=0)
            standardised = (metric - metric.mean()) / metric.std()
            expected.append(standardised.reshape(-1, consecutive).mean(dim=1))
            bounded = scores[f"model.layers.{index}.{kind}"]
            found.append((2 * bounded - 1) / (1 - (2 * bounded - 1).abs()))
    assert torch.allclose(torch.cat(found), torch.cat(expected), rtol=1e-3, atol=1e-4)
    names = [f"model.layers.{index}.{kind}" for index in range(2) for kind in ("self_attn:heads", "mlp:channels")]
    order = torch.cat([scores[name] for name in names]).argsort()
    assert torch.equal(order, torch.cat(expected).argsort())
