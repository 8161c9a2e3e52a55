"""Set-up of the whole suite."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure() -> None:
    # Each xdist worker would otherwise start as many threads as there are cores, and they would wait for each other.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for the processes that tests start


LONGEST = ("test_the_demo_on_the_real_model", "test_smollm2_with_layers_of_different_sizes_continues_as_in_torch")
"""Tests that take minutes: begun first, or one worker has nothing to do while the other ends them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name not in LONGEST)


def pytest_runtest_setup() -> None:
    torch.manual_seed(0)  # what a test draws does not depend on those that ran before it


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model, to be read only."""
    from tests.tiny import save_tiny_llama  # transformers takes seconds, which few tests need

    return save_tiny_llama(tmp_path_factory.mktemp("shared") / "tiny")


@pytest.fixture
def model(shared_model: Path, tmp_path: Path) -> Path:
    """The directory of a tiny model of a test's own."""
    return Path(shutil.copytree(shared_model, tmp_path / "tiny"))
