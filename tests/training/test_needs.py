"""A criterion that needs what training with adapters doesn't make is refused before the first step."""

import pytest

from graphprune.errors import TrainingError
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
