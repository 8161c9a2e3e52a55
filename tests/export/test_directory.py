"""Saving compact models to directories, and loading them with transformers, peft and graphprune."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import graphprune as gp
from graphprune.errors import ExportError, FileFormatError, OutputExistsError, PlanError
from graphprune.export.directory import read_plan

from ..tiny import save_byte_tokenizer
from .tiny import (
    add_adapters,
    any_prunable,
    compact_llama,
    described,
    half,
    logits,
    randomise,
    tiny_llama,
    tokens,
    traced_llama,
)


@pytest.fixture(scope="module")
def compact_layers() -> gp.CompactModel:
    return compact_llama(tiny_llama(), per_layer=True)


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def generated(model: Any, *, use_cache: bool) -> torch.Tensor:
    return model.generate(input_ids=tokens(2, 5), max_new_tokens=6, do_sample=False, use_cache=use_cache)  # type: ignore[no-any-return]


@pytest.mark.parametrize("tied", [True, False])
def test_model_alike_in_every_layer_is_plain_transformers(tmp_path: Path, tied: bool) -> None:
    compact = compact_llama(tiny_llama(tied=tied))
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.reason, report.difference) == ("transformers", None, 0.0)
    assert files(tmp_path / "out") == [
        "README.md",
        "config.json",
        "generation_config.json",
        "graphprune.json",
        "model.safetensors",
        "plan.json",
        "verify.json",
    ]
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    assert torch.equal(logits(model), logits(compact))
    assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False))
    assert sum(parameter.numel() for parameter in model.parameters()) == compact.parameter_count
    assert read_plan(tmp_path / "out") == compact.plan
    assert "from_pretrained('out')" in (tmp_path / "out" / "README.md").read_text()
    assert report.bytes == sum((tmp_path / "out" / file).stat().st_size for file in files(tmp_path / "out"))


@pytest.mark.parametrize("tied", [True, False])
def test_model_with_other_layers_has_its_sizes_in_the_config(tmp_path: Path, tied: bool) -> None:
    compact = compact_llama(tiny_llama(tied=tied), per_layer=True)
    compact.module.generation_config.max_new_tokens = 17  # type: ignore[union-attr]
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.difference) == ("remote-code", 0.0)
    assert report.reason == json.loads((tmp_path / "out" / "graphprune.json").read_text())["reason"]
    assert " here and " in str(report.reason)
    model: Any = gp.load(tmp_path / "out")
    assert isinstance(model, LlamaForCausalLM)
    assert torch.equal(logits(model), logits(compact))
    assert model.generation_config.max_new_tokens == 17
    assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stored:
        assert ("lm_head.weight" in stored.keys()) is not tied  # noqa: SIM118 (it is no mapping)


def test_model_that_is_cut_again_is_saved_as_one_that_was_cut_once(tmp_path: Path) -> None:
    gp.save(compact_llama(tiny_llama(), per_layer=True), tmp_path / "once")
    traced = traced_llama(gp.load(tmp_path / "once"))
    again = gp.rewrite(traced, half(traced, lambda group: group.kind == "channels" and group.status == "prunable"))
    report = gp.save(again, tmp_path / "twice")
    assert (report.form, report.reason, report.difference) == ("remote-code", "its layers differ in size", 0.0)
    model: Any = gp.load(tmp_path / "twice")
    assert model.model.layers[1].mlp.up_proj.out_features == 20
    assert torch.equal(logits(model), logits(again))
    config = json.loads((tmp_path / "twice" / "config.json").read_text())
    assert (config["intermediate_size"], config["num_attention_heads"]) == (80, 8)


def test_code_in_a_directory_is_not_run(tmp_path: Path) -> None:
    gp.save(compact_llama(tiny_llama(), per_layer=True), tmp_path / "out")
    (tmp_path / "out" / "modeling_pruned.py").write_text("raise SystemExit('run')")
    assert isinstance(gp.load(tmp_path / "out"), LlamaForCausalLM)


def test_transformers_does_not_take_other_layers_for_a_plain_model(tmp_path: Path) -> None:
    gp.save(compact_llama(tiny_llama(), per_layer=True), tmp_path / "out")
    with pytest.raises(RuntimeError):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)


def test_config_that_refuses_the_number_of_heads_is_no_plain_model(tmp_path: Path) -> None:
    traced = traced_llama(tiny_llama(hidden=64))
    heads = {g.name: gp.GroupPlan(4, (0, 1, 3)) for g in traced.groups.prunable if g.kind == "heads"}
    compact = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, heads))
    report = gp.save(compact, tmp_path / "out")
    assert report.form == "remote-code"
    assert "its config makes no LlamaForCausalLM" in str(report.reason)
    assert torch.equal(logits(gp.load(tmp_path / "out")), logits(compact))


def test_model_that_transformers_loads_as_another_is_saved_with_its_buffers(tmp_path: Path) -> None:
    compact = compact_llama(tiny_llama(layers=1))
    module: Any = compact.module
    module.model.rotary_emb.inv_freq *= 1.5  # the config does not say this
    report = gp.save(compact, tmp_path / "out")
    assert report.form == "remote-code"
    assert report.reason == (
        "loaded by transformers, model.rotary_emb.inv_freq has other values than in the compact model"
    )
    assert (
        "model.rotary_emb.inv_freq" in json.loads((tmp_path / "out" / "config.json").read_text())["pruned"]["buffers"]
    )
    assert torch.equal(logits(gp.load(tmp_path / "out")), logits(compact))


@pytest.mark.parametrize("per_layer", [False, True])
def test_half_precision(tmp_path: Path, per_layer: bool) -> None:
    compact = compact_llama(tiny_llama(dtype=torch.bfloat16), per_layer=per_layer)
    report = gp.save(compact, tmp_path / "out")
    assert report.form == ("remote-code" if per_layer else "transformers")
    model = gp.load(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=True))


@pytest.mark.parametrize("per_layer", [False, True])
def test_kept_adapters_are_loaded_by_peft(tmp_path: Path, per_layer: bool) -> None:
    compact = compact_llama(add_adapters(tiny_llama()), per_layer=per_layer)
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.difference) == ("remote-code" if per_layer else "transformers", 0.0)
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "out")
    if per_layer:
        model: Any = gp.load(tmp_path / "out")
    else:
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        model = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    assert isinstance(model, PeftModel)
    assert torch.equal(logits(model), logits(compact))
    assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False))


def test_several_adapters_and_what_is_active_are_kept(tmp_path: Path) -> None:
    model = add_adapters(tiny_llama(layers=1))
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=6, target_modules=["v_proj", "up_proj"]))
    model.base_model.set_adapter(["default", "second"])
    compact = compact_llama(randomise(model))
    gp.save(compact, tmp_path / "out")
    loaded: Any = gp.load(tmp_path / "out")
    assert loaded.active_adapters == ["default", "second"]
    assert torch.equal(logits(loaded), logits(compact))


@pytest.mark.parametrize("stabilised", [False, True])
def test_cut_ranks_are_said_in_the_config_of_the_adapter(tmp_path: Path, stabilised: bool) -> None:
    traced = traced_llama(add_adapters(tiny_llama(layers=1), use_rslora=stabilised))
    compact = gp.rewrite(traced, half(traced, lambda group: group.kind == "lora_rank" or described(group)))
    gp.save(compact, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    model: Any = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    torch.testing.assert_close(logits(model), logits(compact))
    assert model.base_model.model.model.layers[0].mlp.up_proj.r["default"] == 2


def test_merged_adapters_need_no_peft(tmp_path: Path) -> None:
    traced = traced_llama(add_adapters(tiny_llama(layers=1)))
    compact = gp.rewrite(traced, half(traced, any_prunable), adapters="merge")
    gp.save(compact, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()
    assert torch.equal(logits(gp.load(tmp_path / "out")), logits(compact))


def test_tokenizer_is_saved_beside(tmp_path: Path) -> None:
    save_byte_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for per_layer in (False, True):
        path = tmp_path / f"out{per_layer}"
        gp.save(compact_llama(tiny_llama(layers=2), per_layer=per_layer), path, tokenizer=tokenizer)
        assert AutoTokenizer.from_pretrained(path).encode("a cat") == tokenizer.encode("a cat")


class Mixer(nn.Module):
    """No model of transformers, with a number that its forward reads and a buffer that is cut."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.inner = nn.Linear(6, heads * 3)
        self.outer = nn.Linear(heads * 3, 6)
        self.register_buffer("scale", torch.randn(heads, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inner(x).view(x.shape[0], self.num_heads, 3) * self.scale
        return self.outer(h.flatten(1))  # type: ignore[no-any-return]


def compact_mixer() -> gp.CompactModel:
    torch.manual_seed(0)
    traced = gp.trace(Mixer(), torch.randn(5, 6))
    return gp.rewrite(traced, half(traced, lambda group: group.kind == "heads"))


def test_module_of_another_library_is_loaded_into_the_dense_one(tmp_path: Path) -> None:
    compact = compact_mixer()
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.difference) == ("per-layer", None)
    assert report.reason == f"{Mixer.__module__}.Mixer is not a model of transformers"
    with torch.device("meta"):
        skeleton = Mixer()
    model = gp.load(tmp_path / "out", model=skeleton)
    x = torch.randn(2, 6)
    assert torch.equal(model(x), compact(x))


def test_dense_module_that_is_missing_or_another_is_named(tmp_path: Path) -> None:
    gp.save(compact_mixer(), tmp_path / "out")
    with pytest.raises(ExportError) as missing:
        gp.load(tmp_path / "out")
    assert str(missing.value) == (
        f"{tmp_path / 'out'} holds a {Mixer.__module__}.Mixer, which gp.load can't make by itself: give it the dense "
        "module, gp.load(path, model=…); it may be on the meta device"
    )
    with pytest.raises(PlanError, match="make it with the same sizes as that one, and without adapters"):
        gp.load(tmp_path / "out", model=Mixer(heads=5))


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(OutputExistsError):
        gp.save(compact_llama(tiny_llama(layers=1)), tmp_path / "out")
    assert files(tmp_path) == ["out/mine"]


@pytest.mark.parametrize(
    ("make", "writer"),
    [
        (lambda: compact_llama(tiny_llama(layers=1)), "transformers.modeling_utils.safe_save_file"),
        (lambda: compact_llama(tiny_llama(), per_layer=True), "transformers.modeling_utils.safe_save_file"),
        (lambda: compact_llama(tiny_llama(), per_layer=True), "graphprune.export.labels.shutil.copyfileobj"),
        (compact_mixer, "graphprune.export.layer_form.save_file"),
    ],
    ids=["transformers", "remote code", "labels", "layers"],
)
def test_nothing_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, writer: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    compact = make()
    monkeypatch.setattr(writer, fail)
    with pytest.raises(gp.GraphPruneError, match=r"The disk that holds .* is full, so out was not written: free some"):
        gp.save(compact, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_model_without_values_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = tiny_llama(layers=1)
    traced = gp.trace(model, kwargs={"input_ids": torch.zeros(2, 11, dtype=torch.long, device="meta")})
    with pytest.raises(ExportError, match="has no values to save: apply the plan to a real checkpoint"):
        gp.save(gp.rewrite(traced, half(traced, any_prunable)), tmp_path / "out")


def test_adapters_without_a_wrapper_are_to_be_merged(tmp_path: Path) -> None:
    model = tiny_llama(layers=1)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with pytest.raises(
        ExportError, match="without a PeftModel around it, so they can't be saved beside it: merge them"
    ):
        gp.save(compact_llama(randomise(model)), tmp_path / "out")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def scramble(file: Path) -> None:
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])


def empty(file: Path) -> None:
    file.write_text("")


def remove(file: Path) -> None:
    file.unlink()


def to_list(file: Path) -> None:
    file.write_text("[]")


def to_object(file: Path) -> None:
    file.write_text("{}")


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("model.safetensors", truncate, "is truncated or corrupt ("),
        ("model.safetensors", scramble, "is truncated or corrupt ("),
        ("model.safetensors", empty, "is truncated or corrupt ("),
        ("model.safetensors", remove, "is missing: copy the whole directory, or save the model again"),
        ("adapter/adapter_model.safetensors", truncate, "is truncated or corrupt ("),
        ("adapter/adapter_config.json", remove, "is missing: copy the whole directory, or save the model again"),
        ("graphprune.json", empty, "can't be read as JSON ("),
        ("graphprune.json", to_list, "is not a JSON object: save the model again"),
        ("graphprune.json", to_object, "has format None, form None, and this graphprune reads graphprune-model/1"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, per_layer: bool, name: str, damage: Any, what: str) -> None:
    gp.save(compact_llama(add_adapters(tiny_llama(layers=2)), per_layer=per_layer), tmp_path / "out")
    damage(tmp_path / "out" / name)
    with pytest.raises(FileFormatError) as caught:
        gp.load(tmp_path / "out")
    assert str(caught.value).removeprefix("The weight file ").startswith(f"{tmp_path / 'out' / name} {what}")
    assert "\n" not in str(caught.value)


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_description_that_does_not_fit_is_named(tmp_path: Path) -> None:
    gp.save(compact_mixer(), tmp_path / "out")
    change(tmp_path / "out" / "graphprune.json", sizes={"middle": {"num_heads": 3}})
    with pytest.raises(FileFormatError, match=r"graphprune.json does not fit the model that it describes"):
        gp.load(tmp_path / "out", model=Mixer())
    gp.save(compact_llama(tiny_llama(), per_layer=True), tmp_path / "llama")
    change(tmp_path / "llama" / "graphprune.json", architecture="os.system")
    with pytest.raises(FileFormatError, match=r"transformers has no model class os.system"):
        gp.load(tmp_path / "llama")


def change_sizes(directory: Path, **changes: Any) -> None:
    pruned = json.loads((directory / "config.json").read_text())["pruned"]
    change(directory / "config.json", pruned={**pruned, **changes})


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({UP: [30, 48]}, f"{UP} is [41, 48] in model.safetensors and [30, 48] in the model that config.json describes"),
        ({UP: [-3, 48]}, f"config.json cuts {UP} to [-3, 48], and it is [80, 48]"),
        ({UP: [81, 48]}, f"config.json cuts {UP} to [81, 48], and it is [80, 48]"),
        ({UP: [41]}, f"config.json cuts {UP} to [41], and it is [80, 48]"),
        ({"model.layers.9.x": [4]}, "config.json names model.layers.9, which PrunedLlamaForCausalLM does not have"),
        ({"model.x": [4]}, "config.json names model.x, which PrunedLlamaForCausalLM does not have"),
    ],
)
def test_sizes_that_were_edited_by_hand_are_named(
    tmp_path: Path, compact_layers: gp.CompactModel, shapes: dict[str, list[int]], what: str
) -> None:
    out = tmp_path / "out"
    gp.save(compact_layers, out)
    pruned = json.loads((out / "config.json").read_text())["pruned"]
    change_sizes(out, shapes={**pruned["shapes"], **shapes})
    with pytest.raises(FileFormatError) as caught:
        gp.load(out)
    assert str(caught.value) == f"{out} can't be loaded by transformers ({what}): save it again"


@pytest.mark.parametrize("number", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"dtype": "float7"}])
@pytest.mark.parametrize("per_layer", [False, True])
def test_config_that_was_edited_by_hand_is_named(tmp_path: Path, per_layer: bool, number: dict[str, Any]) -> None:
    out = tmp_path / "out"
    gp.save(compact_llama(tiny_llama(), per_layer=per_layer), out)
    change(out / "config.json", **number)
    with pytest.raises(FileFormatError) as caught:
        gp.load(out)
    assert str(caught.value).startswith((f"{out} can't be loaded by transformers (", f"the weights in {out} "))
    assert str(caught.value).endswith("save it again")


def test_files_outside_the_directory_are_not_read(tmp_path: Path, compact_layers: gp.CompactModel) -> None:
    out = tmp_path / "out"
    gp.save(compact_layers, out, max_shard_size="20KB")
    index = out / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    shard = names[UP]
    (out / shard).rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(gp.GraphPruneError, match=f"{shard} is missing, and {index.name} names it"):
        gp.load(out)
    moved = {name: "../elsewhere.safetensors" if file == shard else file for name, file in names.items()}
    change(index, weight_map=moved)
    with pytest.raises(
        FileFormatError, match=r"names the file '../elsewhere.safetensors', and a part of a model lies b"
    ):
        gp.load(out)


def test_adapters_outside_the_directory_are_not_read(tmp_path: Path) -> None:
    gp.save(compact_llama(add_adapters(tiny_llama(layers=1))), tmp_path / "out")
    change(tmp_path / "out" / "graphprune.json", adapters={"names": ["../../x"], "active": []})
    with pytest.raises(FileFormatError) as caught:
        gp.load(tmp_path / "out")
    assert (
        str(caught.value)
        == f"the adapter '../../x' does not lie in {tmp_path / 'out' / 'adapter'}: save the model again"
    )


def test_weights_of_an_unknown_type_are_named(tmp_path: Path, compact_layers: gp.CompactModel) -> None:
    gp.save(compact_layers, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"F37"', 1))
    with pytest.raises(FileFormatError, match=r"model.safetensors is truncated or corrupt \(.*F37.*\): get it again"):
        gp.load(tmp_path / "out")


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"there is no directory .*: name one that gp.save wrote"):
        gp.load(tmp_path / "nowhere")
    tiny_llama(layers=1).save_pretrained(tmp_path / "plain")
    with pytest.raises(FileFormatError, match=r"has no graphprune.json, so gp.save did not write it: load it with the"):
        gp.load(tmp_path / "plain")
