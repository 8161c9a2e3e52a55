"""A criterion that needs what training with adapters doesn't make is refused before the first step."""

import pytest
from peft import LoraConfig, get_peft_model

from graphprune.errors import ScoreError, TrainingError
from graphprune.training.callback import LoRAPruneCallback
from tests.models import tiny_llama


def test_biases_make_up_after_pruning_at_once_only() -> None:
    callback = LoRAPruneCallback(ratio=0.3, make_up="bias")
    with pytest.raises(TrainingError) as error:
        callback.begin(tiny_llama(peft=True, tied=False, num_hidden_layers=1), 10)
    assert str(error.value) == (
        "make_up='bias' is for pruning at once (graphprune prune --no-tune): while training use make_up='weights', or "
        "'none'"
    )


@pytest.mark.parametrize(
    ("criterion", "what"),
    [("taylor", "dense gradients of the weights"), ("wanda_sp", "activations"), ("flap", "activations")],
)
def test_a_criterion_that_prunes_at_once(criterion: str, what: str) -> None:
    callback = LoRAPruneCallback(ratio=0.3, criterion=criterion)
    with pytest.raises(TrainingError) as error:
        callback.begin(tiny_llama(peft=True, tied=False, num_hidden_layers=1), 10)
    assert str(error.value) == (
        f"the criterion '{criterion}' needs {what}, which training with adapters doesn't make: prune at once and tune "
        "what is left (graphprune prune --no-tune), or use the criterion 'lora'"
    )


def test_an_adapter_that_leaves_groups_uncovered() -> None:
    callback = LoRAPruneCallback(ratio=0.1)
    model = get_peft_model(tiny_llama(tied=False, num_hidden_layers=1), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ScoreError) as error:
        callback.begin(model, 10)
    assert str(error.value) == (
        "the criterion 'lora' says nothing about base_model.model.model.layers.0.self_attn:head_dims.2 and 1 more "
        "groups: put adapters on its modules"
    )
