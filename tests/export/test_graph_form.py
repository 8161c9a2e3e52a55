"""Models with a graph form only: saved as tensors and a plan, loaded as a graph that takes other sizes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import ExportError, FileFormatError
from graphprune.export.graph_form import PROGRAM, pickles_in

from ..zoo.vision import VISION
from .tiny import add_adapters, tiny_llama, tokens


class Counted(nn.Module):
    """Counts its channels in its code, so that only its graph can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x) * torch.arange(8.0)))  # type: ignore[no-any-return]


def cut(model: nn.Module, example: Tensor) -> gp.CompactModel:
    """The model without 40 % of its parameters, whatever only its graph can cut included."""
    return gp.prune(model, example, ratio=0.4)


def test_llama_with_head_dims_cut_is_saved_as_its_graph(tmp_path: Path) -> None:
    traced = gp.trace(tiny_llama(), {"input_ids": torch.randint(0, 50, (2, 7))})
    compact = gp.rewrite(traced, gp.select(traced, gp.score(traced), ratio=0.4, kinds=["head_dims", "channels"]))
    assert compact.module_form is None
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.difference) == ("graph", 0.0)
    loaded = gp.load(tmp_path / "out")
    assert loaded(input_ids=torch.randint(0, 50, (3, 11))).logits.shape[:2] == (3, 11)


@pytest.mark.slow
def test_images_in_windows_are_saved_with_an_open_batch(tmp_path: Path) -> None:
    # to keep the sides of the images open too would take minutes here and hours in a real one
    model, inputs = VISION["swin"]()
    report = gp.save(gp.prune(model.eval(), kwargs=inputs, ratio=0.25), tmp_path / "out")
    assert (report.form, report.difference) == ("graph", 0.0)
    images = torch.randn(5, *inputs["pixel_values"].shape[1:])
    loaded = gp.load(tmp_path / "out")(pixel_values=images).logits
    program = torch.export.load(tmp_path / "out" / PROGRAM).module()(pixel_values=images)["logits"]
    assert loaded.shape[0] == 5
    torch.testing.assert_close(loaded, program)


def test_a_plain_module_is_loaded_into_the_dense_one(tmp_path: Path) -> None:
    model = Counted().eval()
    compact = cut(model, torch.randn(3, 6))
    gp.save(compact, tmp_path / "out")
    inputs = torch.randn(3, 6)
    torch.testing.assert_close(gp.load(tmp_path / "out", model=Counted())(inputs), compact(inputs))
    with pytest.raises(ExportError, match="give it the dense module"):
        gp.load(tmp_path / "out")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    gp.save(cut(Counted(), torch.randn(3, 6)), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        gp.load(tmp_path / "out", model=Counted())


def test_a_graph_with_adapters_is_refused(tmp_path: Path) -> None:
    traced = gp.trace(add_adapters(tiny_llama()), {"input_ids": torch.randint(0, 50, (2, 7))})
    plan = gp.select(traced, gp.score(traced), ratio=0.2)
    with pytest.raises(ExportError, match=r"there is no module form .* merge them, with gp.rewrite"):
        gp.save(gp.rewrite(traced, plan, module_form=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_program_needs_torch_alone_and_holds_no_pickle(tmp_path: Path) -> None:
    traced = gp.trace(tiny_llama(layers=1), {"input_ids": tokens()})
    plan = gp.select(traced, gp.score(traced), ratio=0.4, kinds=["head_dims", "channels"])
    report = gp.save(gp.rewrite(traced, plan, module_form=False), tmp_path / "out")
    assert (report.form, report.reason, report.difference) == ("graph", "it was not asked for", 0.0)
    ids = tokens(3, 7)
    expected = gp.load(tmp_path / "out")(input_ids=ids).logits.detach()
    save_file({"ids": ids, "logits": expected}, tmp_path / "expected.safetensors")
    code = """
import sys

class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("graphprune", "transformers"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import torch
from safetensors.torch import load_file

expected = load_file("expected.safetensors")
program = torch.export.load("out/model.pt2").module()
torch.testing.assert_close(program(input_ids=expected["ids"])["logits"], expected["logits"])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
    assert pickles_in(tmp_path / "out" / PROGRAM) == []


def test_a_pickle_in_a_program_is_seen(tmp_path: Path) -> None:
    program = torch.export.export(Counted(), (torch.randn(3, 6),))
    torch.export.save(program, tmp_path / "model.pt2")
    assert pickles_in(tmp_path / "model.pt2") == ["model/data/sample_inputs/model.pt"]


@pytest.mark.slow
def test_a_program_is_compiled(tmp_path: Path) -> None:
    compact = cut(Counted().eval(), torch.randn(3, 6))
    gp.save(compact, tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / PROGRAM)
    inputs = torch.randn(3, 6)
    expected = compact(inputs)
    torch.testing.assert_close(torch.compile(program.module())(inputs), expected)
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("AOTInductor needs a C++ compiler, and there is none")
    program = torch.export.export(program.module(), (inputs,))  # AOTInductor asks for example inputs, which no file has
    file = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(file)(inputs), expected)
