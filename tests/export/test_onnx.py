"""ONNX files of compact models, run in onnxruntime."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import ExportError, OutputExistsError
from graphprune.export import onnx as module_under_test
from graphprune.export import onnx_check, onnx_graph
from graphprune.export.onnx_check import compare

from .tiny import add_adapters, any_prunable, compact_llama, half, logits, tiny_llama, tokens, traced_llama


def run(path: Path, **inputs: torch.Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})  # type: ignore[no-any-return]


def test_compact_llama_runs_at_any_batch_and_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compact = compact_llama(add_adapters(tiny_llama()), per_layer=True)
    report = gp.export_onnx(compact, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert report.dynamic
    assert report.opset == 18
    assert report.note is None
    assert report.inputs == {"input_ids": ("batch", "sequence")}
    assert report.outputs == {"logits": ("batch", "sequence", 97)}
    assert report.checked == ({"input_ids": (2, 11)}, {"input_ids": (1, 14)})
    assert max(report.relative) < 1e-5
    assert report.bytes == (tmp_path / "model.onnx").stat().st_size
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    for ids in (tokens(1, 1), tokens(5, 3), tokens(1, 40)):
        (found,) = run(tmp_path / "model.onnx", input_ids=ids)
        np.testing.assert_allclose(found, logits(compact, input_ids=ids).numpy(), rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_mask_is_an_input_of_its_own_and_one_row_is_enough(tmp_path: Path) -> None:
    inputs = {"input_ids": tokens(1, 9), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])}
    compact = compact_llama(tiny_llama(layers=1))
    report = gp.export_onnx(compact, tmp_path / "model.onnx", inputs=inputs)
    assert report.inputs == {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}
    (found,) = run(tmp_path / "model.onnx", **inputs)
    expected = logits(compact, **inputs).numpy()
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_rules_are_tried_where_they_can_apply_and_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxscript.rewriter import RewriteRule

    tries: list[int] = []
    original: Any = RewriteRule.try_rewrite

    def counted(*args: Any, **options: Any) -> Any:
        tries[-1] += 1
        return original(*args, **options)

    monkeypatch.setattr(RewriteRule, "try_rewrite", counted)
    compact = compact_llama(tiny_llama())
    for name in ("here", "everywhere"):
        tries.append(0)
        gp.export_onnx(compact, tmp_path / f"{name}.onnx")
        monkeypatch.setattr(module_under_test, "rules_by_operator", nullcontext)
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "everywhere.onnx").read_bytes()
    assert 0 < tries[0] < tries[1] / 5


def test_tied_weight_is_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "SHARED_BYTES", 97 * 48 * 4)
    gp.export_onnx(compact_llama(tiny_llama(layers=1)), tmp_path / "model.onnx")
    weights = onnx.load(str(tmp_path / "model.onnx")).graph.initializer
    assert [sorted(each.dims) for each in weights].count([48, 97]) == 1


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "EXTERNAL_BYTES", 1000)
    compact = compact_llama(tiny_llama(layers=1))
    report = gp.export_onnx(compact, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    (found,) = run(tmp_path / "model.onnx", input_ids=tokens())
    np.testing.assert_allclose(found, logits(compact, input_ids=tokens()).numpy(), rtol=1e-4, atol=1e-4)


def test_static_sizes_on_request(tmp_path: Path) -> None:
    report = gp.export_onnx(compact_llama(tiny_llama(layers=1)), tmp_path / "model.onnx", dynamic=False)
    assert not report.dynamic
    assert report.inputs == {"input_ids": (2, 11)}
    assert report.checked == ({"input_ids": (2, 11)},)


def test_graph_form_has_the_sizes_of_the_trace(tmp_path: Path) -> None:
    traced = traced_llama(tiny_llama(layers=1))
    compact = gp.rewrite(traced, half(traced, any_prunable), module_form=False)
    report = gp.export_onnx(compact, tmp_path / "model.onnx")
    assert report.inputs == {"input_ids": (2, 11)}
    assert "the graph form was exported, as there is no module form (it was not asked for)" in str(report.note)
    assert "not all sizes could be left free" in str(report.note)


class TinyTerms(nn.Module):
    """What it adds keeps zeros from being divided by zeros, and what it squeezes has several positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x.relu().squeeze(1)
        return kept / (kept.sum(dim=-1, keepdim=True) + 1e-15) + kept / (1e-30 + kept.sum(dim=-1, keepdim=True))


def test_what_is_close_to_zero_is_added_and_idle_squeezes_are_left_out(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4)
    x[0, 0] = -1
    report = gp.export_onnx(TinyTerms(), tmp_path / "model.onnx", inputs={"x": x})
    assert report.inputs == {"x": ("batch", 3, 4)}
    assert max(report.difference) < 1e-6


class OneAtATime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.outer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        folded: torch.Tensor = self.inner(x).relu().reshape(1, 4, 8)
        return self.outer(folded) + ids.sum()


def test_graph_form_of_one_row_keeps_it_and_leaves_the_rest_free(tmp_path: Path) -> None:
    torch.manual_seed(0)
    traced = gp.trace(OneAtATime(), (torch.randn(1, 4, 6), torch.ones(3, 5)))
    compact = gp.rewrite(traced, half(traced, any_prunable), module_form=False)
    report = gp.export_onnx(compact, tmp_path / "m.onnx")
    assert report.inputs == {"x": (1, 4, 6), "ids": ("batch", 5)}
    assert "sizes of one could not be left free: " in str(report.note)
    assert [shapes["ids"] for shapes in report.checked] == [(3, 5), (1, 5)]


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    compact = compact_llama(tiny_llama(layers=1, dtype=torch.bfloat16))
    report = gp.export_onnx(compact, tmp_path / "model.onnx")
    assert report.note == "bfloat16 weights were exported as float32"
    assert next(compact.parameters()).dtype == torch.bfloat16


def test_newest_operators_run_too(tmp_path: Path) -> None:
    report = gp.export_onnx(compact_llama(tiny_llama(layers=1)), tmp_path / "model.onnx", opset=23)
    assert report.opset == 23


class TwoResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.layer(x)
        return h.softmax(-1), torch.where(h > 0, h, -torch.inf)


def test_any_module_with_its_inputs(tmp_path: Path) -> None:
    report = gp.export_onnx(TwoResults(), tmp_path / "model.onnx", inputs=torch.randn(3, 6))
    assert report.inputs == {"x": ("batch", 6)}
    assert list(report.outputs) == ["output_0", "output_1"]


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(OutputExistsError) as caught:
            gp.export_onnx(tiny_llama(layers=1), tmp_path / "model.onnx")
        assert str(caught.value) == (
            f"{tmp_path / name} exists already and is not overwritten: give another name, or remove it"
        )
        (tmp_path / name).unlink()


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="opset 17 is too old for torch's exporter: ask for 18 or more"):
        gp.export_onnx(tiny_llama(layers=1), tmp_path / "model.onnx", opset=17)
    with torch.device("meta"):
        model = tiny_llama(layers=1)
    with pytest.raises(ExportError, match="has no values to export"):
        gp.export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="TwoResults does not run on the example inputs"):
        gp.export_onnx(TwoResults(), tmp_path / "model.onnx", inputs=torch.randn(3, 7))
    with pytest.raises(ExportError) as caught:
        gp.export_onnx(tiny_llama(layers=1), tmp_path / "missing" / "model.onnx")
    assert str(caught.value) == (
        f"there is no directory {tmp_path / 'missing'} for model.onnx: make it, or give another path"
    )
    with pytest.raises(ExportError, match="there is no precision 'fp8': ask for fp32, fp16, int8"):
        gp.export_onnx(tiny_llama(layers=1), tmp_path / "model.onnx", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="LlamaForCausalLM is not made of an encoder and a decoder"):
        gp.export_onnx(tiny_llama(layers=1), tmp_path / "model.onnx", part="encoder")
    assert list(tmp_path.iterdir()) == []


def test_file_that_computes_something_else_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any) -> None:
        import onnx_ir

        weight = model.graph.initializers["inner.bias"]
        weight.const_value = onnx_ir.tensor(weight.const_value.numpy() + 0.1)

    monkeypatch.setattr(module_under_test, "share_transposes", spoil)
    with pytest.raises(ExportError) as caught:
        gp.export_onnx(OneResult(), tmp_path / "model.onnx", inputs=torch.ones(3, 6))
    assert str(caught.value).startswith("output of the exported model differs from torch by 1.0e-01 on ")
    assert list(tmp_path.iterdir()) == []


class OneResult(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Wobbly(nn.Module):
    """Loses digits in single precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 3000.0) - 3000.0


class FakeSession:
    def __init__(self, error: float):
        self.error = error

    def get_inputs(self) -> list[Any]:
        return [type("Spec", (), {"name": "x", "type": "tensor(float)"})]

    get_outputs = get_inputs

    def run(self, names: None, feeds: Any, options: Any) -> list[Any]:
        return [feeds["x"] + np.float32(self.error)]


def test_differences_as_small_as_torchs_own_rounding_pass() -> None:
    sample = ((), {"x": torch.full((3,), 0.12345)})
    own = abs(float(Wobbly()(sample[1]["x"])[0]) - 0.12345)
    assert own > onnx_check.TOLERANCES["fp32"] / 2
    agreement = compare(Wobbly(), FakeSession(3 * own), sample)
    assert agreement.note is not None
    with pytest.raises(ExportError, match="differs from torch by"):
        compare(Wobbly(), FakeSession(100 * own), sample)
