"""How far work has come: it goes from nothing to all, never back, and what is made is the same."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.progress import Parts, Watched, calls_counted

from .tiny import save_tiny_llama


class Reports(list[float]):
    """The shares that were reported."""

    def __call__(self, done: int, total: int) -> None:
        self.append(done / total)

    def go_up_to_the_end(self, *, steps: int) -> bool:
        return self == sorted(self) and self[0] == 0 and self[-1] == 1 and len(set(self)) >= steps


@pytest.fixture
def traced(tmp_path: Path) -> gp.TracedModel:
    from graphprune.sources import load_model

    return gp.trace(load_model(save_tiny_llama(tmp_path / "tiny"))[0])


def test_parts_share_one_progress() -> None:
    said = Reports()
    parts = Parts(said, {"read": 1, "skipped": 1, "write": 2})
    assert list(Watched("ab", parts.part("read"))) == ["a", "b"]
    assert list(Watched("ab", parts.part("write"))) == ["a", "b"]
    assert said == [0, 0.125, 0.25, 0.5, 0.75, 1]


def test_a_part_that_is_begun_again_takes_nothing_back() -> None:
    said = Reports()
    parts = Parts(said, {"try": 1})
    for _ in range(2):
        list(Watched("ab", parts.part("try")))
    assert said == [0, 0.5, 1]


def test_parts_that_nobody_listens_to_say_nothing() -> None:
    parts = Parts(None, {"read": 1})
    assert parts.part("read") is None
    parts.end()


def test_calls_of_innermost_modules_are_steps() -> None:
    said = Reports()
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.Linear(2, 2))
    with calls_counted(model, said, without=[model[2]]):
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert said == [1 / 3, 2 / 3, 1]


def test_tracing_and_rewriting_say_how_far_they_are(traced: gp.TracedModel) -> None:
    said = Reports()
    again = gp.trace(traced.module, kwargs=traced.kwargs, progress=said)
    assert said.go_up_to_the_end(steps=10)
    assert again.fingerprint == traced.fingerprint
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2)
    said = Reports()
    compact = gp.rewrite(traced, plan, progress=said)
    assert said.go_up_to_the_end(steps=50)
    silent = gp.rewrite(traced, plan)
    assert compact.report is not None
    assert silent.report is not None
    assert compact.report.effect == silent.report.effect


@pytest.mark.slow
def test_an_export_says_how_far_it_is_and_writes_the_same(traced: gp.TracedModel, tmp_path: Path) -> None:
    said = Reports()
    gp.export_onnx(traced.module, tmp_path / "one.onnx", progress=said)
    assert said.go_up_to_the_end(steps=50)
    gp.export_onnx(traced.module, tmp_path / "other.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_watching_an_export_writes_no_log(
    traced: gp.TracedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("torch.fx.interpreter", "torch.onnx._internal.exporter._core", "onnx_ir.passes._pass_infra")
    before = [logging.getLogger(name).level for name in names]
    gp.export_onnx(traced.module, tmp_path / "one.onnx", progress=Reports(), check=False)
    assert [record for record in caplog.records if record.name in names] == []
    assert [logging.getLogger(name).level for name in names] == before
