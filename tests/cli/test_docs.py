"""The files, commands and Python of two pages of the documentation and of the README work as printed."""

import importlib.util
import re
import shlex
from pathlib import Path

import torch

import fedsim as package
from fedsim.data.dataset import Task
from fedsim.models.recurrent import GRU, Architecture
from fedsim.models.reference import ReferenceModel, load_row
from fedsim.runs.checkpoints import checkpoint_path, load_checkpoint

DOCS = Path(package.__file__).parents[1] / "docs"


def blocks(page):
    """The fenced blocks of a page, as ``(name of the file announced before it, or None, language, text)``."""
    text = (DOCS / page).read_text()
    found = re.finditer(r"(?:^`(?P<file>[\w/.]+)`[^\n]*:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", text, re.S | re.M)
    return [(match["file"], match["kind"], match["text"]) for match in found]


def test_your_own_data(fedsim, elsewhere, monkeypatch):
    """What the run of the table says of its rows is what the page shows, and the source of one's own runs."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))
    commands, shown, here = [], "", {}
    for file, kind, text in blocks("your-own-data.md"):
        if file:
            (elsewhere / file).parent.mkdir(parents=True, exist_ok=True)
            (elsewhere / file).write_text(text)
        elif kind == "python":
            exec(text, here)  # noqa: S102  # it is ours
        elif kind == "bash":
            commands += text.splitlines()
        elif kind == "text":
            shown += text
    for run, command in zip(("table", "shape", "sequences", "run"), commands, strict=True):
        name, *words = shlex.split(command)
        assert name == "fedsim"
        answer = fedsim(*words, f"hydra.run.dir={run}", "device=cpu")
        assert (answer.code, answer.err) == (0, "")
        if run == "table":
            assert answer.out.startswith(shown)
    last = (elsewhere / "run" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith("5,20,")


def test_take_the_model_home(fedsim, elsewhere):
    small = ("model.hidden_size=2", "rounds=2", "device=cpu", "threads=1", "console=none")
    assert fedsim("run", *small, "hydra.run.dir=RUN_DIR").code == 0
    found = blocks("take-the-model-home.md")
    commands = [shlex.split(text.strip()) for _, kind, text in found if kind == "bash"]
    torch_code, onnx_code, prepare_code, exported_code = [text for _, kind, text in found if kind == "python"]
    have_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    for name, command, *words in commands:
        assert name == "fedsim"
        if command == "export" and not have_onnx:
            words = ["RUN_DIR", "--to", "torch", "--to", "exported"]
        extra = small if command == "run" else ()
        answer = fedsim(command, *words, *extra)
        assert (answer.code, answer.err) == (0, "")
    here = {}
    exec(torch_code, here)  # noqa: S102  # it is ours
    arch = Architecture(GRU(hidden_size=2), 12, None, 9, Task.CLASSIFICATION)
    row = load_checkpoint(checkpoint_path(elsewhere / "RUN_DIR", 2), torch.device("cpu")).row
    reference = ReferenceModel(arch)
    load_row(reference, arch, row)
    inputs = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(here["predict"](inputs), reference(inputs, torch.tensor([7])), atol=1e-6)
    exec(prepare_code, here)  # noqa: S102
    assert here["label"].startswith("speaker_")
    exec(exported_code, here)  # noqa: S102
    zeros, lengths = torch.zeros(2, 5, 12), torch.tensor([5, 3])
    assert torch.allclose(here["outputs"], reference(zeros, lengths), atol=1e-6)
    if have_onnx:
        exec(onnx_code, here)  # noqa: S102
        assert here["outputs"].shape == (2, 9)


def test_the_python_of_the_parts(capsys):
    """It runs as printed, and leaves the weights under the names of torch."""
    text = (DOCS / "python.md").read_text()
    (code,) = re.findall(r"^## The parts\n.*?```python\n(.*?)```", text, re.S | re.M)
    names = {}
    exec(code.replace('"rounds=5"', '"rounds=1", "device=cpu", "threads=1"'), names)  # noqa: S102  # it is ours
    assert capsys.readouterr().out.splitlines()[0].startswith("0 0.")
    assert {"recurrent.weight_ih_l0", "head.weight"} <= set(names["weights"])
