"""tools/bench/methods.py: what is in a run's result, and the page made of results."""

from pathlib import Path
from typing import Any

import pytest

from .loading import load_tool


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The tool, writing to a directory of its own."""
    module = load_tool("methods", monkeypatch)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "methods" / "results.jsonl")
    monkeypatch.setattr(module, "PAGE", tmp_path / "methods.md")
    return module


def result(method: str, ratio: float, seed: int = 0) -> dict[str, Any]:
    perplexity = {"wikitext-2 128": 40.0 + 10 * seed, "ptb 128": 200.0}
    return {
        "method": method,
        "ratio": ratio,
        "seed": seed,
        "steps": 200,
        "perplexity": perplexity,
        "perplexity untuned": {},
        "removed of decoder": ratio,
        "removed of all": 0.8 * ratio,
        "kept": {"heads": [1, 2], "channels": [10, 20]} if ratio else {},
        "units": {"heads": 4, "channels": 40} if ratio else {},
        "machine": "a machine",
    }


def test_results_are_added_one_line_each_and_read_again(methods: Any) -> None:
    runs = [result("dense", 0.0), result("fisher", 0.5), result("fisher", 0.5, seed=1)]
    for run in runs:
        methods.append(methods.RESULTS, run)
    assert methods.read_results(methods.RESULTS) == runs
    assert len({methods.key(run) for run in runs}) == 3


def test_the_table_has_the_mean_over_seeds_and_the_range(methods: Any) -> None:
    flap = {**result("flap", 0.5), "perplexity untuned": {"wikitext-2 128": 99.0}}
    runs = [result("dense", 0.0), result("fisher", 0.5), result("fisher", 0.5, seed=1), flap]
    assert methods.table(runs, 0.5).splitlines() == [
        "| method | seeds | decoder removed | of all | untuned | wikitext-2 128 | ptb 128 "
        "| heads kept | channels kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| dense | 1 | 0.0% | 0.0% | – | 40.00 | 200.00 | – | – |",
        "| flap | 1 | 50.0% | 40.0% | 99.00 | 40.00 | 200.00 | 75% | 75% |",
        "| fisher | 2 | 50.0% | 40.0% | – | 45.00 (40.00–50.00) | 200.00 (200.00–200.00) | 75% | 75% |",
    ]


def test_the_page_has_a_section_for_each_ratio_and_the_plots(methods: Any) -> None:
    methods.write_page([result("dense", 0.0), result("fisher", 0.5), result("fisher", 0.2)])
    page = methods.PAGE.read_text(encoding="utf-8")
    assert "- a machine: 3 runs." in page
    assert "is below" not in page
    assert "## 50% of the decoder, 200 steps" in page
    assert "## 20% of the decoder, 200 steps" in page
    for name in ("trade-off", "kept-50", "kept-20"):
        for suffix in (".svg", ".png"):
            assert (methods.PAGE.parent / "methods" / f"{name}{suffix}").stat().st_size > 1000


def test_by_how_much_ours_is_below_the_rival(methods: Any) -> None:
    rivals = [result(methods.RIVAL, 0.5, seed=1), result(methods.RIVAL, 0.5, seed=3)]
    ours = result(methods.OURS, 0.5, seed=1)
    assert methods.margin([ours, *rivals, result(methods.RIVAL, 0.2)], 0.5) == (
        f"\n\n**{methods.OURS}** is below **{methods.RIVAL}** by 16.7% on wikitext-2 128, 0.0% on ptb 128."
    )
    assert methods.margin(rivals, 0.5) == methods.margin([ours], 0.5) == ""
