"""Cutting checkpoints in their files: the same as in memory, to the bit, whatever happens on the way."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import graphprune as gp
from graphprune.errors import DiskFullError, ExportError, FileFormatError, OutputExistsError, PlanError, SourceError
from graphprune.export import checkpoint as module_under_test
from graphprune.export.checkpoint import rewrite_checkpoint
from graphprune.weight_files import INDEX, WEIGHTS

from .tiny import add_adapters, any_prunable, compact_llama, described, half, logits, tiny_llama, traced_llama


def tensors(directory: Path) -> dict[str, Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_tensors(found: Path, expected: Path) -> None:
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def saved(model: Any, path: Path, shard: str = "20KB") -> Path:
    model.save_pretrained(path, max_shard_size=shard)
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA in float32, in many files."""
    return saved(tiny_llama(), tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture(scope="module")
def plan() -> gp.PruningPlan:
    return compact_llama(tiny_llama()).plan


@pytest.fixture
def source(dense: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(dense, tmp_path / "model"))


@pytest.mark.parametrize(
    ("dtype", "per_layer", "shard"),
    [
        (torch.float32, False, "20KB"),
        (torch.bfloat16, True, "20KB"),
        (torch.float16, False, "1GB"),
        (torch.bfloat16, True, "1GB"),
    ],
)
def test_the_same_as_in_memory(tmp_path: Path, dtype: torch.dtype, per_layer: bool, shard: str) -> None:
    source = saved(tiny_llama(dtype=dtype), tmp_path / "model", shard)
    compact = compact_llama(AutoModelForCausalLM.from_pretrained(source).eval(), per_layer=per_layer)
    expected = gp.save(compact, tmp_path / "expected")
    report = rewrite_checkpoint(compact.plan, source, tmp_path / "out")
    assert (report.form, report.reason) == (expected.form, expected.reason)
    assert (report.parameters, report.dense_parameters) == (compact.parameter_count, compact.dense_parameters)
    assert_same_tensors(tmp_path / "out", tmp_path / "expected")
    assert (
        report.files == len(list(source.glob("*.safetensors"))) == len(list((tmp_path / "out").glob("*.safetensors")))
    )
    left, right = (json.loads((tmp_path / name / "graphprune.json").read_text()) for name in ("out", "expected"))
    assert left == right
    assert torch.equal(logits(gp.load(tmp_path / "out")), logits(compact))


def test_plain_transformers_loads_it(dense: Path, plan: gp.PruningPlan, tmp_path: Path) -> None:
    report = rewrite_checkpoint(plan, dense, tmp_path / "out")
    model: Any
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert report.form == "transformers"
    assert not any(info.values())
    assert torch.equal(logits(model), logits(compact_llama(tiny_llama())))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_parameters"] == report.parameters
    assert index["metadata"]["total_size"] == 4 * report.parameters


def test_names_of_a_base_model_and_what_transformers_ignores(tmp_path: Path) -> None:
    """GPT-2 as it lies on the hub: without ``transformer.``, and with the masks of its attention."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_inner=128, n_positions=64, bos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    saved(model, tmp_path / "model", "1GB")
    stored = {name.removeprefix("transformer."): tensor for name, tensor in tensors(tmp_path / "model").items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    save_file(stored, tmp_path / "model" / WEIGHTS, metadata={"format": "pt"})
    traced = traced_llama(model)
    compact = gp.rewrite(traced, half(traced, lambda group: group.status == "prunable" and group.kind == "channels"))
    report = rewrite_checkpoint(compact.plan, tmp_path / "model", tmp_path / "out")
    assert report.left_out == ("h.0.attn.bias",)
    assert tensors(tmp_path / "out").keys() == stored.keys() - {"h.0.attn.bias"}
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(compact))


@pytest.mark.parametrize("plan_is_for", ["the model", "the model with the adapter"])
def test_an_adapter_is_cut_with_the_model(dense: Path, tmp_path: Path, plan_is_for: str) -> None:
    adapted = add_adapters(AutoModelForCausalLM.from_pretrained(dense).eval(), use_dora=True)
    adapted.save_pretrained(tmp_path / "adapter")
    traced = traced_llama(adapted)
    compact = gp.rewrite(traced, half(traced, described))
    gp.save(compact, tmp_path / "expected")
    plan = compact.plan
    if plan_is_for == "the model":
        plain = traced_llama(tiny_llama())
        names = {group.name.removeprefix("base_model.model."): kept for group, kept in _kept(traced, plan)}
        plan = gp.PruningPlan(plain.fingerprint, names)
    report = rewrite_checkpoint(plan, dense, tmp_path / "out", adapter=tmp_path / "adapter")
    assert report.form == "transformers"
    assert_same_tensors(tmp_path / "out", tmp_path / "expected")
    assert_same_tensors(tmp_path / "out" / "adapter", tmp_path / "expected" / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    again = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter")).eval()
    assert torch.allclose(logits(again), logits(compact), atol=1e-6)


def _kept(traced: gp.TracedModel, plan: gp.PruningPlan) -> list[tuple[Any, gp.GroupPlan]]:
    return [(traced.groups[name], kept) for name, kept in plan.groups.items()]


@pytest.mark.slow
@pytest.mark.parametrize("per_layer", [False, True])
def test_a_real_model_in_eight_files(tmp_path: Path, per_layer: bool) -> None:
    """SmolLM2-135M: the plan that the in-memory path is given cuts its files to the same bits."""
    from graphprune.sources import demo_model_directory

    model = AutoModelForCausalLM.from_pretrained(demo_model_directory(), dtype=torch.bfloat16).eval()
    source = saved(model, tmp_path / "model", "32MB")
    assert len(list(source.glob("*.safetensors"))) == 8
    traced = traced_llama(model)
    compact = gp.rewrite(traced, half(traced, described, uneven=per_layer))
    expected = gp.save(compact, tmp_path / "expected")
    report = rewrite_checkpoint(compact.plan, source, tmp_path / "out")
    assert report.form == expected.form == ("remote-code" if per_layer else "transformers")
    assert report.files == 8
    assert_same_tensors(tmp_path / "out", tmp_path / "expected")


# --- runs that are interrupted ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from graphprune.export.checkpoint import rewrite_checkpoint
from graphprune.plan import PruningPlan

def kill(done, total, name):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

rewrite_checkpoint(PruningPlan.load(sys.argv[1]), sys.argv[2], sys.argv[3], progress=kill)
"""


def test_a_killed_run_goes_on_from_its_last_finished_file(source: Path, plan: gp.PruningPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    output = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "plan.json"), str(source), str(output)]
    root = Path(gp.__file__).parents[1]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not output.exists()
    (unfinished,) = tmp_path.glob(".out.*.tmp")
    finished = {file.name: file.stat().st_ino for file in unfinished.glob("*.safetensors")}
    assert len(finished) == 3
    (unfinished / ".model-00004.tmp").write_text("half of a file")
    report = rewrite_checkpoint(plan, source, output)
    assert report.resumed == 3
    assert {name: (output / name).stat().st_ino for name in finished} == finished  # not written again
    assert not list(tmp_path.glob(".*"))
    assert not list(output.glob(".*"))
    rewrite_checkpoint(plan, source, tmp_path / "expected")
    assert_same_tensors(output, tmp_path / "expected")
    assert torch.equal(logits(gp.load(output)), logits(gp.load(tmp_path / "expected")))


def test_another_plan_does_not_go_on_with_it(source: Path, plan: gp.PruningPlan, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrite_checkpoint(plan, source, tmp_path / "out", progress=interrupt)
    other = half(traced_llama(tiny_llama()), any_prunable)
    assert rewrite_checkpoint(other, source, tmp_path / "out").resumed == 0


def test_a_disk_that_fills_up(
    source: Path, plan: gp.PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module_under_test.CutShard.write

    def fill(shard: Any, file: Path) -> None:
        write(shard, file)
        if len(list(file.parent.glob("model*"))) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module_under_test.CutShard, "write", fill)
    full_at = 0
    with pytest.raises(DiskFullError) as caught:
        rewrite_checkpoint(plan, source, tmp_path / "out")
    assert str(caught.value) == (
        f"The disk that holds {tmp_path} is full, so out was not written: free some space there, and run again."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    full_at = 2
    with pytest.raises(DiskFullError) as caught:
        rewrite_checkpoint(plan, source, tmp_path / "out")
    (unfinished,) = tmp_path.glob(".out.*.tmp")
    assert str(caught.value) == (
        f"The disk that holds {tmp_path} is full, so out was not written: free some space there, and run again; "
        f"what is finished is kept in {unfinished}, and the next run goes on from there."
    )
    assert not (tmp_path / "out").exists()
    full_at = 99
    assert rewrite_checkpoint(plan, source, tmp_path / "out").resumed == 2


# --- what is known before anything is written -------------------------------------------------------------------------


def without_tensor(source: Path) -> None:
    _change(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: None)


def with_other_shape(source: Path) -> None:
    _change(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[1:].contiguous())


def with_other_name(source: Path) -> None:
    _change(
        source, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor, "model.layers.1.mlp.experts.0.w1.weight"
    )


def _change(source: Path, name: str, change: Any, new: str | None = None) -> None:
    index = json.loads((source / INDEX).read_text())
    file = index["weight_map"].pop(name)
    stored = load_file(source / file)
    changed = change(stored.pop(name))
    if changed is not None:
        stored[new or name] = changed
        index["weight_map"][new or name] = file
    save_file(stored, source / file, metadata={"format": "pt"})
    (source / INDEX).write_text(json.dumps(index))


def in_few_bits(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (source / "config.json").write_text(json.dumps(config))


def wider(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            without_tensor,
            FileFormatError,
            "The weights in DIR lack 1 tensors that its config.json asks for, model.layers.1.mlp.up_proj.weight among "
            "them: get the whole model again.",
        ),
        (
            with_other_shape,
            FileFormatError,
            "DIR holds model.layers.1.mlp.up_proj.weight as [79, 48], and its config.json asks for [80, 48]: get the "
            "whole model again.",
        ),
        (
            with_other_name,
            FileFormatError,
            "DIR holds model.layers.1.mlp.experts.0.w1.weight, and LlamaForCausalLM has no tensor of that name: where "
            "tensors are renamed or merged as they are loaded, they can't be cut in their files; load the model, then "
            "use gp.rewrite and gp.save.",
        ),
        (
            in_few_bits,
            SourceError,
            "The weights in DIR are stored in few bits, which can't be cut in their files: apply the plan to the model "
            "that they were made from, and quantise the result.",
        ),
        (wider, PlanError, "the plan was made for a model with fingerprint "),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    source: Path, plan: gp.PruningPlan, tmp_path: Path, damage: Any, kind: type[Exception], message: str
) -> None:
    damage(source)
    with pytest.raises(kind) as caught:
        rewrite_checkpoint(plan, source, tmp_path / "out")
    assert str(caught.value).startswith(message.replace("DIR", str(source)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_plan_with_a_graph_form_only(source: Path, tmp_path: Path) -> None:
    """LLaMA divides by the root of its head size: what it computes with another one is not the masked model."""
    traced = traced_llama(tiny_llama())
    plan = half(traced, lambda group: group.kind == "head_dims" and any("q_proj" in m.parameter for m in group.members))
    assert gp.rewrite(traced, plan).module_error is not None
    with pytest.raises(ExportError) as caught:
        rewrite_checkpoint(plan, source, tmp_path / "out")
    assert str(caught.value) == (
        "a LlamaForCausalLM whose sizes are those of the plan computes something else than the masked model, so the "
        "plan has a graph form only: load the model, and use gp.rewrite and gp.save"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_output_that_exists_stays(source: Path, plan: gp.PruningPlan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(OutputExistsError):
        rewrite_checkpoint(plan, source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_too_little_space_is_known_before(
    source: Path, plan: gp.PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError) as caught:
        rewrite_checkpoint(plan, source, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'out'} needs 0.0 GB, and the disk that holds {tmp_path} has 0.0 GB left: free some space there, "
        "or name another place."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_of_another_model(source: Path, plan: gp.PruningPlan, tmp_path: Path) -> None:
    add_adapters(tiny_llama(hidden=32)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        SourceError, match=r"^The adapter in .* has no .* of shape \[4, 48\]: it was trained on another"
    ):
        rewrite_checkpoint(plan, source, tmp_path / "out", adapter=tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "model"]
