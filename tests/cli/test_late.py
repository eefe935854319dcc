"""What only reads settings answers without torch; a package that is postponed is what it always is once it is used."""

import subprocess
import sys
import threading
from types import ModuleType

import pytest

from fedsim.build import record_of
from fedsim.cli import late
from fedsim.config.compose import build_experiment as build
from fedsim.config.compose import compose, make_loader
from fedsim.runs.chosen import _default

NOT_LOADED = ("torch._C", "numba", "pandas", "scipy")
"""Of torch a part, as torch itself may be there without being loaded; so with numpy."""

PROGRAM = """
import sys
from fedsim.cli.main import main
sys.argv = ["fedsim", *{words}]
try:
    main()
finally:
    print("loaded:", sorted({names} & set(sys.modules)), file=sys.stderr)
"""


def loaded(words, names):
    """What a command prints to its error stream, and which modules it has loaded, in a process of its own."""
    program = PROGRAM.format(words=list(words), names=set(names))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    said, _, found = done.stderr.rpartition("loaded: ")
    return said, found.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], ""),
        (["run", "--help"], ""),
        (["list"], ""),
        (["list", "gru"], ""),
        (["list", "lr"], ""),
        (["list", "client=default"], ""),
        (["run", "modle=gru"], "error: modle=gru: no such key (did you mean 'model'?)"),
        (["run", "model=grru"], "error: model=grru: no such option (did you mean 'gru'?)"),
        (["run", "client.optimizer.lrr=0.1"], "no such key (did you mean 'client.optimizer.lr'?)"),
        (["run", "aggregator/combine=krumm"], "no such option (did you mean 'krum'?)"),
        (["run", "rounds=abc"], "error: rounds=abc: must be a whole number"),
        (["run", "rounds=0"], "error: rounds=0: must be at least 1"),
        (["run", "client.optimizer.lr=-1"], "error: client.optimizer.lr=-1.0: must be greater than 0"),
        (["run", "client.optimizer.lr=1e39"], "is beyond the numbers of dtype=float32"),
        (["run", "-m", "seed=1,1"], "jobs 0 and 1 would be the same run"),
        (["resume", "nowhere"], "error: nowhere"),
        (["partition", "num_clients=0"], "error: num_clients=0: must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_are_read_without_torch(words, said):
    told, found = loaded(words, [*NOT_LOADED, "numpy._core"])
    assert said in told
    assert "Traceback" not in told
    assert found == "[]"


def test_lists_need_no_hydra():
    assert loaded(["list", "gru"], ["hydra", "omegaconf"])[1] == "[]"


@pytest.mark.parametrize("command", ["compare", "report"])
def test_tables_are_read_without_torch(command, tmp_path):
    (tmp_path / "metrics.csv").write_text("round,clients,test_accuracy\n0,0,0.5\n1,2,0.75\n")
    told, found = loaded([command, str(tmp_path)], ["torch", "numba", "hydra"])  # torch not even postponed
    assert "Traceback" not in told
    assert found == "[]"


def test_the_default_settings_are_those_that_hydra_composes():
    assert _default() == record_of(build(compose(make_loader(None), [])))


# ---------------------------------------------------------------------------------------------------------------------
# postponing


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that makes a package, imports of which are counted in `runs`, and its name."""
    made = []

    def make(body="value = 1\n"):
        name = f"postponed_{tmp_path.name}_{len(made)}".replace("-", "_")
        folder = tmp_path / name
        folder.mkdir()
        count = "import sys\nsys.runs = [*getattr(sys, 'runs', ()), __name__]\n"
        (folder / "__init__.py").write_text(f"{count}from {name}.child import deep\n{body}")
        (folder / "child.py").write_text(f"{count}deep = 2\n")
        made.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "runs", [], raising=False)
    path = list(sys.meta_path)
    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] in made]:
        del sys.modules[name]
    assert sys.meta_path == path


def test_a_package_is_loaded_once_when_it_is_used(package):
    name = package()
    late.postpone(name)
    module = __import__(name)
    assert __import__(name) is module
    assert sys.runs == []
    assert (module.value, module.deep) == (1, 2)
    assert sys.runs == [name, f"{name}.child"]
    assert type(module) is ModuleType
    assert module.child is sys.modules[f"{name}.child"]
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = module.absent
    late.load(name)
    assert sys.runs == [name, f"{name}.child"]


def test_a_package_is_loaded_now(package):
    name = package()
    late.postpone(name)
    late.load(name)
    assert sys.runs == [name, f"{name}.child"]
    assert type(sys.modules[name]) is ModuleType


def test_the_import_of_a_child_loads_the_package_and_runs_the_child_once(package):
    name = package()
    late.postpone(name)
    module = __import__(f"{name}.child")
    assert sys.runs == [name, f"{name}.child"]
    assert module.child is sys.modules[f"{name}.child"]
    assert module.child.__spec__.origin == module.child.__file__
    assert type(module) is ModuleType


def test_the_import_of_a_child_that_the_package_does_not_import(package, tmp_path):
    name = package()
    (tmp_path / name / "other.py").write_text("found = 3\n")
    late.postpone(name)
    assert __import__(f"{name}.other", fromlist=["found"]).found == 3
    assert sys.runs == [name, f"{name}.child"]


def test_a_package_that_fails_says_so_and_can_be_tried_again(package):
    name = package("raise OSError('libcuda.so')\n")
    late.postpone(name)
    module = __import__(name)
    for _ in range(2):
        with pytest.raises(OSError, match=r"libcuda\.so"):
            _ = module.value
    assert name not in sys.modules


def test_a_thread_waits_for_another_that_loads(package):
    name = package("import time\ntime.sleep(0.2)\nvalue = 1\n")
    late.postpone(name)
    module, found = __import__(name), []
    threads = [threading.Thread(target=lambda: found.append(module.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1, 1, 1]
    assert sys.runs == [name, f"{name}.child"]


def test_what_is_loaded_or_absent_is_left_alone(package):
    name = package()
    module = __import__(name)
    late.postpone(name)
    assert sys.modules[name] is module
    late.postpone("fedsim_has_no_such_package")
    assert "fedsim_has_no_such_package" not in sys.modules
