"""Saved models are loaded by plain transformers, in a process in which there is no graphprune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune as gp
from graphprune.adapters import outputs_of
from graphprune.export import modeling_pruned
from graphprune.export.pruned_form import auto_classes
from graphprune.expressible import config_cuts, is_configured, module_cuts

from ..zoo.language import LANGUAGE, Entry
from ..zoo.vision import VISION
from .elsewhere import Job, load_elsewhere

ENTRIES: dict[str, Entry] = {**LANGUAGE, **VISION}
FEW = ("llama", "gpt2", "bert", "t5")
"""A decoder with grouped queries, one with transposed weights, an encoder, and both; the rest is slow."""


def uneven(traced: gp.TracedModel) -> gp.PruningPlan:
    """One unit less in each group that the module form can cut, two less in every second one; ties stay whole."""
    cuts = module_cuts(traced, traced.groups.prunable)
    chosen, ties = cuts.choose(traced.groups.prunable)
    tied = {group.name for tie in ties for group in tie}
    plans: dict[str, gp.GroupPlan] = {}
    for place, group in enumerate(group for group in chosen if group.name not in tied):
        counts = [count for count in cuts.counts[group.family] if count < group.units]
        count = counts[place % 2 if len(counts) > 1 else 0]
        kept = torch.randperm(group.units, generator=torch.Generator().manual_seed(place))[:count]
        plans[group.name] = gp.GroupPlan(group.units, tuple(kept.sort().values.tolist()))
    return gp.PruningPlan(traced.fingerprint, plans)


def even(traced: gp.TracedModel) -> gp.PruningPlan:
    """What the config can say."""
    return gp.select(traced, gp.score(traced, "random"), ratio=0.1, of="prunable", target="hf")


def traced_entry(name: str) -> gp.TracedModel:
    """A model of the zoo."""
    model, inputs = ENTRIES[name]()
    return gp.trace(model.eval(), (), inputs)


def job(
    name: str, traced: gp.TracedModel, plan: gp.PruningPlan, directory: Path, *, per_layer: bool
) -> tuple[Job, gp.CompactModel]:
    """Cut a model, save it in several files, and say what a plain process must find there."""
    compact = gp.rewrite(traced, plan)
    report = gp.save(compact, directory, max_shard_size="60KB")
    assert report.form == ("remote-code" if per_layer else "transformers"), report.reason
    module: Any = compact.module
    inputs = dict(traced.kwargs)
    generated = None
    if inputs.keys() <= {"input_ids", "attention_mask"} and module.can_generate():
        ids = inputs["input_ids"][:1, :5]
        generated = module.generate(ids, max_new_tokens=5, do_sample=False)
        inputs = {"input_ids": inputs["input_ids"]}
    expected = outputs_of(module, (), inputs)[0]
    auto = [*auto_classes(type(traced.module)), type(traced.module).__name__][0]
    label = f"{name}-{'layers' if per_layer else 'plain'}"
    if generated is not None:
        inputs = {"input_ids": inputs["input_ids"][:1, :5]}
        expected = outputs_of(module, (), inputs)[0]
    return Job(label, directory, auto, per_layer, inputs, expected, generated), compact


@pytest.mark.slow
def test_loaded_without_graphprune(tmp_path: Path) -> None:
    made = {}
    for name in FEW:
        traced = traced_entry(name)
        for per_layer in (False, True):
            plan = uneven(traced) if per_layer else even(traced)
            made[name, per_layer] = job(name, traced, plan, tmp_path / f"{name}{per_layer}", per_layer=per_layer)
    found = load_elsewhere([each for each, _ in made.values()], tmp_path)
    for (name, per_layer), (each, compact) in made.items():
        kind, count = found[each.name]
        assert kind == f"{'Pruned' if per_layer else ''}{type(compact.module).__name__}".replace(
            "PrunedPruned", "Pruned"
        )
        assert count == compact.parameter_count, name


MORE = (
    "albert", "ast", "bart", "beit", "big_bird", "bit", "blenderbot", "blip", "bloom", "camembert", "clap", "clip",
    "codegen", "cohere", "cohere2", "convbert", "convnext", "cvt", "data2vec_audio", "data2vec_text",
    "data2vec_vision", "deberta_v2", "deepseek_v3", "deit", "detr", "dinov2", "dinov3", "distilbert", "dpt",
    "electra", "exaone4", "falcon", "falcon_mamba", "focalnet", "funnel", "gemma", "gemma2", "gemma3", "glm4", "glpn",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "hubert", "jetmoe", "layoutlm", "levit",
    "llava", "longt5", "m2m_100", "mamba2", "marian", "mask2former", "mbart", "mistral", "mixtral", "mobilenet_v1",
    "mobilenet_v2", "modernbert", "mpnet", "mpt", "mt5", "nemotron", "olmo", "olmo2", "opt", "pegasus", "persimmon",
    "phi", "phi3", "phimoe", "poolformer", "prophetnet", "pvt", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "regnet",
    "resnet", "roberta", "roformer", "sam_vision", "segformer", "sew", "siglip", "smollm3", "speecht5", "stablelm",
    "starcoder2", "swin", "swinv2", "switch_transformers", "univnet", "upernet", "vit", "vit_mae", "wav2vec2",
    "wavlm", "whisper", "whisper_encoder", "xlm", "xlm_roberta", "xlnet", "yolos",
)  # fmt: skip
"""Not EfficientNet and MobileViT, in which what goes through random weights vanishes: any model equals them."""

AT_ONCE = 8
"""Families whose models one plain process loads: to start it takes longer than to load them."""


@pytest.mark.slow
@pytest.mark.parametrize("names", [MORE[at : at + AT_ONCE] for at in range(0, len(MORE), AT_ONCE)], ids="-".join)
def test_more_families_are_loaded_without_graphprune(tmp_path: Path, names: tuple[str, ...]) -> None:
    jobs: list[Job] = []
    for name in names:
        traced = traced_entry(name)
        before = len(jobs)
        if is_configured(traced) and config_cuts(traced, traced.groups.prunable).choose(traced.groups.prunable)[0]:
            jobs.append(job(name, traced, even(traced), tmp_path / f"{name}-plain", per_layer=False)[0])
        plan = uneven(traced)
        if plan.groups and auto_classes(type(traced.module)):
            jobs.append(job(name, traced, plan, tmp_path / f"{name}-layers", per_layer=True)[0])
        assert len(jobs) > before, f"nothing of {name} can be saved for transformers"
    assert len(load_elsewhere(jobs, tmp_path)) == len(jobs)


def test_the_file_of_code_imports_nothing_of_graphprune(tmp_path: Path) -> None:
    text = Path(str(modeling_pruned.__file__)).read_text(encoding="utf-8")
    imported = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imported
    assert not any("graphprune" in line or line.startswith("from .") for line in imported)


def test_classes_that_the_file_does_not_make() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'PrunedNothing'"):
        _ = modeling_pruned.PrunedNothing
    with pytest.raises(AttributeError, match="has no attribute 'PrunedLlamaConfig'"):
        _ = modeling_pruned.PrunedLlamaConfig
    from transformers import LlamaConfig

    made: Any = modeling_pruned.PrunedLlamaForCausalLM
    with pytest.raises(ValueError, match="has no entry pruned, so there are no sizes for PrunedLlamaForCausalLM"):
        made(LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9))
