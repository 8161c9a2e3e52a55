"""Pushing to the Hugging Face hub, with its client replaced by one that keeps what it is given."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

import graphprune as gp
from graphprune.errors import ExportError

from .tiny import add_adapters, compact_llama, logits, tiny_llama


class FakeHub:
    """Keeps uploaded folders in a directory, by the name of their repository."""

    root: Path
    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, **options: Any) -> None:
        self.calls.append(("HfApi", options))

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls.append(("create_repo", options))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> Any:
        self.calls.append(("upload_folder", options))
        target = self.root / repo_id
        target.parent.mkdir()
        Path(folder_path).rename(target)
        Path(folder_path).mkdir()
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "root", tmp_path, raising=False)
    monkeypatch.setattr(FakeHub, "calls", [], raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def test_what_is_pushed_is_what_is_saved(tmp_path: Path, hub: type[FakeHub]) -> None:
    compact = compact_llama(add_adapters(tiny_llama(layers=1)))
    url = gp.push_to_hub(compact, "small", private=True, token="hf_x", measured={"perplexity": 43.29})
    assert url == "https://huggingface.co/me/small/commit/1"
    assert hub.calls == [
        ("HfApi", {"token": "hf_x", "library_name": "graphprune"}),
        ("create_repo", {"private": True, "exist_ok": True}),
        (
            "upload_folder",
            {
                "revision": None,
                "commit_message": f"Upload a model without {compact.ratio:.1%} of its parameters",
                "create_pr": False,
            },
        ),
    ]
    assert torch.equal(logits(gp.load(tmp_path / "me" / "small")), logits(compact))
    card = (tmp_path / "me" / "small" / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained('small')" in card
    assert "| perplexity | 43.29 |" in card
    adapter = (tmp_path / "me" / "small" / "adapter" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "small"' in adapter
    assert str(tmp_path) not in card + adapter


def test_a_hub_that_refuses(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    compact = compact_llama(tiny_llama(layers=1))
    with pytest.raises(ExportError, match=r"'not a name' is no name of a repository on the hub \("):
        gp.push_to_hub(compact, "not a name")
    assert hub.calls == []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("401 Unauthorized\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ExportError) as caught:
        gp.push_to_hub(compact, "me/small")
    assert str(caught.value) == (
        "the Hugging Face hub does not take me/small (401 Unauthorized): log in with hf auth login, check the name and "
        "the network, or write the same to a directory with gp.save"
    )
