"""``graphprune inspect`` on all that it takes, and each of the forms that it gives."""

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import networkx as nx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import graphprune as gp
from graphprune.cli import app

from .tiny import save_adapter, save_tiny_llama

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "groups.schema.json").read_text(encoding="utf-8"))
NET = """
import torch
from torch import nn
from helper import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.out = nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.out(self.norm(self.up(x)).relu().mean((2, 3)))

x = torch.ones(2, 3, 6, 6)
def tensor(): return Net(), x
def arguments(): return Net(), (x,)
def named(): return Net(), {"x": x}
def alone(): return Net()
def number(): return Net(), 3
def nothing(): return Net(), ()
def broken(): raise ValueError("no luck\\n at all")
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.up(x).relu())  # type: ignore[no-any-return]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("WIDTH = 8")
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("inspect") / "tiny")


def inspect(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def groups(*arguments: object) -> dict[str, dict[str, Any]]:
    """The form for machines by the names of groups, held against its schema."""
    body = json.loads(inspect(*arguments, "--json"))
    jsonschema.validate(body, SCHEMA)
    return {group["name"]: group for group in body["groups"]}


def failure(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.removeprefix("error: ").removesuffix("\n")


# --- what it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["tensor", "arguments", "named"])
def test_a_function_in_a_file(net: Path, function: str) -> None:
    found = groups(f"{net}:{function}")["model:channels"]
    assert (found["units"], found["status"], len(found["members"])) == (8, "prunable", 7)


def test_a_function_of_a_module_in_the_working_directory(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent)
    net.rename("some_net.py")
    assert groups("some_net:tensor") == groups("some_net.py:tensor")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("alone", "returned Net, and not a model and an example of what it takes: a tensor, a tuple of arguments or"),
        ("number", "returned int beside the model, and not a model and an example of what it takes: a tensor, a tuple"),
        ("nothing", "returned an empty example beside the model, and not a model and an example of what it takes"),
        ("broken", "raised ValueError: no luck."),
    ],
)
def test_a_function_that_gives_something_else(net: Path, function: str, message: str) -> None:
    assert failure(f"{net}:{function}").startswith(f"{net}:{function} {message}")


def test_functions_that_are_not_there(net: Path, tmp_path: Path) -> None:
    assert failure(f"{net}:x") == f"{net} has no function x: name one that it has, {net}:FUNCTION."
    assert failure(f"{tmp_path}/none.py:f") == f"There is no file {tmp_path}/none.py: check the path."
    assert failure("no_such_module:f") == (
        "no_such_module can't be imported: ModuleNotFoundError: No module named 'no_such_module'."
    )


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("examples", [False, True])
def test_an_exported_program(tmp_path: Path, free: bool, examples: bool) -> None:
    x = torch.ones(2, 3)
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    program = torch.export.export(Net(), (x,), dynamic_shapes=shapes)
    if not examples:
        program.example_inputs = None
    torch.export.save(program, tmp_path / "net.pt2")
    found = groups(tmp_path / "net.pt2")
    expected = {group.name: group.units for group in gp.trace(Net(), x).groups}
    assert {name: group["units"] for name, group in found.items()} == expected
    assert failure(tmp_path / "net.pt2", "--lora").endswith(
        "holds a graph and no modules to put adapters on: leave out --lora"
    )


def test_files_from_which_no_graph_can_be_had(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_text("not a zip")
    assert failure(tmp_path / "bad.pt2").startswith(f"{tmp_path}/bad.pt2 can't be read by torch.export.load (")
    assert failure(tmp_path / "none.pt2") == f"There is no file {tmp_path}/none.pt2: check the path."
    assert failure(tmp_path / "net.onnx") == (
        f"{tmp_path}/net.onnx is an ONNX file, which holds ONNX operators and not those of torch that axes are known "
        "for: name the torch model that it was exported from, its .pt2, or a function that makes it, file.py:function"
    )


def test_an_adapter(llama: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", llama)
    assert {group["kind"] for group in groups(adapter).values()} >= {"lora_rank", "heads", "channels"}


def test_an_image_model_from_its_config(tmp_path: Path) -> None:
    from transformers import ViTConfig

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 80}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, architectures=["ViTForImageClassification"])  # type: ignore[arg-type]
    config.save_pretrained(tmp_path)
    text = inspect(tmp_path)
    assert re.search(r"─ [\w.]+ 0–1 ×2\s*$", text, re.MULTILINE)
    assert text.endswith("\nMACs are those of a forward pass over pixel_values 2×3×32×32\n")


# --- what it gives ---------------------------------------------------------------------------------------------------


def test_the_tree_of_a_deep_model_has_a_row_for_its_layers(tmp_path: Path) -> None:
    config = save_tiny_llama(tmp_path / "deep", num_hidden_layers=30) / "config.json"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(config.read_text())
    folded, whole = (inspect(tmp_path / "config", *more).splitlines() for more in ([], ["--all"]))
    assert "└─ layers 0–29 ×30" in [line.rstrip() for line in folded]
    assert sum("mlp:channels" in line for line in folded) == 1
    assert sum("mlp:channels" in line for line in whole) == 30
    assert "   └─ mlp:channels" in "\n".join(folded)


def test_text_that_is_piped_has_no_colours(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in inspect(llama)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from graphprune.cli.inspect import inspect as run

    def shown(**environment: str) -> str:
        with monkeypatch.context() as changed:
            changed.delenv("NO_COLOR", raising=False)
            changed.setenv("TERM", "xterm-256color")
            changed.setenv("COLUMNS", "100")
            for name, value in environment.items():
                changed.setenv(name, value)
            changed.setattr("sys.stdout", terminal := Terminal())
            run(str(llama))
        return terminal.getvalue()

    assert "\x1b[32mprunable" in shown()
    assert "\x1b[32m" not in shown(NO_COLOR="1")


def test_the_graph_as_text_and_as_a_picture(llama: Path, tmp_path: Path) -> None:
    paths = {form: tmp_path / f"groups.{form}" for form in ("svg", "dot", "graphml")}
    text = inspect(llama, *(word for form, path in paths.items() for word in (f"--{form}", path)))
    assert len(text.splitlines()) == 2  # no tree where files were asked for
    graph = nx.read_graphml(paths["graphml"])
    edges = {(min(a, b), max(a, b), data["dim"]) for a, b, data in graph.edges(data=True)}
    traced = gp.trace(_loaded(llama))
    assert edges == {(f"g {g.name}", f"p {m.parameter}", m.dim) for g in traced.groups for m in g.members}
    assert graph.nodes["g model.layers.1.mlp:channels"]["macs_per_unit"] == 2496

    picture = ElementTree.parse(paths["svg"])
    words = ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("model.layers 0–1 ×2.mlp:channels") == 1
    assert {"gate_proj.weight48×32", "prunable", "statistics", "frozen"} <= set(words)
    folded = re.findall(r'^  "(g [^"]*)" -- "(p [^"]*)" \[.*label="(\d)"\];$', paths["dot"].read_text(), re.MULTILINE)
    first = {(a, b, str(dim)) for a, b, dim in edges if "layers.1" not in a + b}
    assert sorted(folded) == sorted(first)
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) == len(first)


def test_pictures_of_some_groups(llama: Path, tmp_path: Path) -> None:
    inspect(llama, "--kind", "heads", "--all", "--svg", tmp_path / "heads.svg")
    text = (tmp_path / "heads.svg").read_text(encoding="utf-8")
    assert re.findall(r">([^<]*:[a-z_]+)<", text) == [
        "model.layers.0.self_attn:heads",
        "model.layers.1.self_attn:heads",
    ]


def test_files_are_written_whole_or_not_at_all(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "groups.svg"
    path.write_text("before")
    inspect(llama, "--svg", path)
    after = path.read_text(encoding="utf-8")
    assert after.startswith("<svg ")

    def fail(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    assert failure(llama, "--svg", path).startswith(f"The disk that holds {tmp_path} is full, so groups.svg was not")
    assert path.read_text(encoding="utf-8") == after
    assert [each.name for each in tmp_path.iterdir()] == ["groups.svg"]


def _loaded(directory: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(directory)
    return model
