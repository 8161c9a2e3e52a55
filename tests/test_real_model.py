"""The whole chain on SmolLM2-135M, as a user of the library goes through it."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import graphprune as gp
from graphprune.onnx import generate
from graphprune.sources import demo_model_directory, load_model

from .export.test_genai import continued
from .export.test_onnx_cache import greedy

IDS = torch.arange(100, 126).reshape(2, 13)


@pytest.mark.slow
def test_smollm2_with_adapters_from_trace_to_onnx(tmp_path: Path) -> None:
    model, tokenizer = load_model(demo_model_directory())
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    traced = gp.trace(adapted, kwargs={"input_ids": IDS})
    kinds = [group.kind for group in traced.groups.prunable]
    assert [kinds.count(kind) for kind in ("heads", "repeats", "head_dims", "channels")] == [30, 30, 31, 30]

    scores = gp.score(traced, "lora", data=[{"input_ids": IDS}])
    plan = gp.select(traced, scores, ratio=0.2, of="base", homogeneous=True)
    compact = gp.rewrite(traced, plan, adapters="merge")
    assert compact.report is not None
    assert compact.module_error is None
    assert compact.report.graph_error is not None
    assert compact.report.module_error is not None
    assert max(compact.report.graph_error, compact.report.module_error) < 1e-6
    assert compact.ratio == pytest.approx(0.2, abs=0.005)

    report = gp.save(compact, tmp_path / "out", tokenizer)
    assert report.form == "transformers"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        expected = loaded(input_ids=IDS).logits
    cached, plain = (
        loaded.generate(IDS[:1], max_new_tokens=5, do_sample=False, use_cache=use) for use in (True, False)
    )
    assert torch.equal(cached, plain)

    gp.export_onnx(compact, tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"input_ids": IDS.numpy()})[0])
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.slow
def test_smollm2_with_layers_of_different_sizes_continues_as_in_torch(tmp_path: Path) -> None:
    model, tokenizer = load_model(demo_model_directory())
    compact = gp.prune(model, kwargs={"input_ids": IDS}, ratio=0.2, form="module")
    compact.module.generation_config.eos_token_id = len(tokenizer) - 1  # so that no text ends
    start = tokenizer("The capital of France is", return_tensors="pt").input_ids
    expected = greedy(compact.module, start, 64)
    assert len(tokenizer) - 1 not in expected
    report = gp.export_genai(compact, tmp_path / "out", tokenizer=tokenizer)
    heads = {dims[1] for name, dims in report.inputs.items() if name.endswith(".key")}
    assert heads == {2, 3}
    assert report.bytes == pytest.approx(4 * compact.parameter_count, rel=0.02)
    assert (generate(report.path, start.numpy(), 64) == expected).all()
    assert continued(tmp_path / "out", start, 64).tolist() == expected[0].tolist()
