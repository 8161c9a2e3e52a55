"""Compact models on the Hugging Face hub: what ``gp.save`` writes, uploaded by huggingface_hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..compact import CompactModel
from ..errors import ExportError
from ..quiet import first_line
from .directory import SHARD, write


def push_to_hub(
    compact: CompactModel,
    repo_id: str,
    tokenizer: Any = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = SHARD,
    measured: Mapping[str, float] | None = None,
) -> str:
    """Save a compact model as :func:`graphprune.save` does, and upload it; returns the address of the commit.

    The repository is made where there is none, and nothing reaches the hub before the model was saved and loaded again.
    A model that was loaded from what was saved has transformers' own ``push_to_hub``.

    Raises:
        ExportError: as for :func:`graphprune.save`, or the hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ExportError(f"{repo_id!r} is no name of a repository on the hub ({first_line(error)})") from error
    with TemporaryDirectory(prefix="graphprune-") as scratch:
        write(compact, Path(scratch), repo_id, tokenizer=tokenizer, max_shard_size=max_shard_size, measured=measured)
        api = HfApi(token=token, library_name="graphprune")
        try:
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=name,
                folder_path=scratch,
                revision=revision,
                commit_message=commit_message or f"Upload a model without {compact.ratio:.1%} of its parameters",
                create_pr=create_pr,
            )
        except Exception as error:  # the hub's client has a dozen of them, without a common base
            raise ExportError(
                f"the Hugging Face hub does not take {repo_id} ({first_line(error)}): log in with hf auth login, check "
                "the name and the network, or write the same to a directory with gp.save"
            ) from error
    return str(commit.commit_url)
