"""The model card beside a saved model."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

import graphprune as gp
from graphprune.export.card import base_of, model_card
from graphprune.version import __version__

from .tiny import compact_llama, tiny_llama


@pytest.fixture(scope="module")
def compact() -> gp.CompactModel:
    made = compact_llama(tiny_llama(layers=1))
    about = {"ratio": 0.5, "criterion": "lora", "source": "HuggingFaceTB/SmolLM2-135M", "settings": {"seed": 0}}
    return replace(made, plan=replace(made.plan, about=about))


def test_what_the_hub_reads(compact: gp.CompactModel) -> None:
    card = ModelCard(model_card(compact, "transformers", "me/small", "AutoModelForCausalLM", None))
    assert card.data.to_dict() == {
        "base_model": "HuggingFaceTB/SmolLM2-135M",
        "library_name": "transformers",
        "tags": ["graphprune", "pruned"],
    }


def test_what_a_reader_reads(compact: gp.CompactModel) -> None:
    text = model_card(
        compact, "remote-code", "me/small", "AutoModelForCausalLM", {"perplexity": 43.291, "tokens": 25600}
    )
    assert "\n# small\n" in text
    assert "model = AutoModelForCausalLM.from_pretrained('me/small', trust_remote_code=True)\n" in text
    assert (
        "This is [HuggingFaceTB/SmolLM2-135M](https://huggingface.co/HuggingFaceTB/SmolLM2-135M) without "
        f"{compact.ratio:.1%} of its parameters: {compact.parameter_count:,} of {compact.dense_parameters:,} are left. "
        f"It was cut by graphprune {__version__}.\n"
    ) in text
    assert "| channels | 1 | 80 | 40 |\n" in text
    assert f"its hash is `{compact.plan.digest}`" in text
    assert "| criterion | `lora` |\n" in text
    assert "seed" not in text
    assert "| perplexity | 43.29 |\n| tokens | 25,600 |\n" in text
    assert compact.report is not None
    assert f"is {max(compact.report.graph_error, compact.report.module_error or 0):.1e} in float64" in text


def test_a_model_from_a_directory_has_no_base_on_the_hub(compact: gp.CompactModel) -> None:
    local = replace(compact, plan=replace(compact.plan, about={"source": "/home/me/model"}))
    assert base_of(local) is None
    text = model_card(replace(local, report=None), "per-layer", "out", None, None)
    assert "base_model" not in text
    assert "library_name" not in text
    assert "model = gp.load('out')\n" in text
    assert "This is a LlamaForCausalLM without" in text
    assert "It was not compared with the masked model" in text
    assert "## Measured" not in text
