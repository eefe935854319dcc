"""Every YAML in configs/: a one-line comment first, the fields and defaults of its dataclass, and it composes."""

import dataclasses
import importlib
import importlib.resources
import itertools
import typing
from pathlib import Path

import pytest
import yaml

from fedsim import build
from fedsim.config import compose as config
from fedsim.config.documented import comment_of
from fedsim.errors import UserError
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

ROOT = Path(str(importlib.resources.files("fedsim.configs")))
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
COMPONENTS = [name for name in FILES if "_target_" in (ROOT / name).read_text()]
EXPERIMENTS = [name for name in FILES if name.startswith("experiment/")]
NEEDS = {
    "data/csv.yaml": ("data.path=load.csv", "data.target_column=kW"),
    "experiment/energy_forecast.yaml": ("data.path=load.csv",),
    "experiment/patient_pressure.yaml": ("data.path=load.csv", "data.client_column=client", "data.target_column=kW"),
    "data/text.yaml": ("data.path=play.txt",),
    "data/cmapss.yaml": ("data.path=turbofan",),
    "aggregator/correction/fedrep.yaml": ("aggregator.blocks=[-head]",),
    "aggregator/correction/fedbabu.yaml": ("aggregator.blocks=[-head]",),
    "system/profiles.yaml": ("system.path=devices.csv",),
    "data/leaf.yaml": ("data.path=leaf",),
    "data/stackoverflow.yaml": ("data.path=stackoverflow",),
    "audit/inversion.yaml": ("client.epochs=null", "client.steps=1", "client.batch_size=1"),
    "privacy/central_dp.yaml": ("aggregator=mean",),
    "privacy/central_dp_adaptive.yaml": ("aggregator=mean",),
    "privacy/dp_ftrl.yaml": ("aggregator=mean",),
    "privacy/local_dp.yaml": ("aggregator=mean",),
    "privacy/matrix_factorisation.yaml": ("aggregator=mean",),
    "schedule/dpsgd.yaml": ("aggregator=mean",),
    "schedule/fedasync.yaml": ("system=devices",),
    "schedule/fedbuff.yaml": ("system=devices",),
    "experiment/keyboard_shakespeare.yaml": ("data.path=play.txt",),
    "experiment/keyboard_words.yaml": ("data.path=play.txt",),
    "experiment/patient_ecg.yaml": ("data.path=ecg", "num_clients=4"),
    "experiment/turbofan_cmapss.yaml": ("data.path=turbofan",),
}
"""Overrides that an option requires, without which it is refused, or that spare it a download."""

ABOUT_ONE_VALUE = {
    *("client/optimizer/adam_tables.yaml", "aggregator/local.yaml", "aggregator/fedper.yaml"),
    *("aggregator/lg_fedavg.yaml", "aggregator/fedrep.yaml", "aggregator/fedbabu.yaml"),
}
"""Options that are another one with a value of its own."""

CHOOSY = (
    *(
        "aggregator",
        "aggregator/combine",
        "aggregator/correction",
        "audit",
        "baseline",
        "personalize",
        "privacy",
        "sampler",
    ),
    "schedule",
)
"""Groups whose options do not go with all of the others, so that each is chosen alone, with what it needs."""

PRESETS = ("aggregator/",)
"""Groups whose options may be presets: the numbers are in the parts that they choose."""


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def component(name):
    module, _, cls = read(name)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), cls)


def compose(name):
    group, _, option = name.removesuffix(".yaml").rpartition("/")
    return config.check_request(config.Request((f"{group}={option}", *NEEDS.get(name, ()))))[0].experiment


@pytest.mark.parametrize("name", FILES)
def test_the_first_line_is_a_comment_on_the_option(name):
    lines = (ROOT / name).read_text(encoding="ascii").splitlines()  # a terminal may support no more
    comment = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert comment.startswith("# ")
    assert len(comment) > 10
    assert not any(line.startswith("#") for line in lines[lines.index(comment) + 1 :][:1])  # it ends there
    assert len(comment) <= 120
    assert comment_of((ROOT / name).read_text()) == comment[2:]


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_fields_and_defaults_are_those_of_the_dataclass(name):
    written = {key: value for key, value in read(name).items() if key not in ("_target_", "defaults")}
    chosen = [next(iter(entry)) for entry in read(name).get("defaults", []) if isinstance(entry, dict)]
    parts = {part for part in chosen if not part.startswith("override ")}
    fields = {field.name: field for field in dataclasses.fields(component(name))}
    assert written.keys() | parts == fields.keys()
    assert not written.keys() & parts
    assert [*written] == [key for key in fields if key in written]  # in the same order
    group, hints = name.rpartition("/")[0], typing.get_type_hints(component(name))
    if (
        not group.startswith(("checkpoint", "console")) and name != "client/full_batch.yaml"
    ):  # these options are settings of one class
        for key, value in written.items():
            if name not in ABOUT_ONE_VALUE:
                made = fields[key].default_factory
                default = fields[key].default if made is dataclasses.MISSING else made()
                assert build.convert(key, value, hints[key]) == default


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_value_is_explained(name):
    for line in (ROOT / name).read_text().splitlines()[1:]:
        key = line.partition(":")[0]
        if line and not line.startswith((" ", "#", "defaults", "_target_")) and "/" in name:
            single = len(read(name)) == 2  # the first line is about the only value
            assert "  # " in line or single, key


def together():
    """Options of different groups, many at a time: the first of each group, the second of each, ...

    Those of the groups in `CHOOSY` are alone.
    """
    groups = [group for group in config.list_options() if group not in (*CHOOSY, "schedule/staleness")]
    columns = [[name for name in COMPONENTS if name.rpartition("/")[0] == group] for group in groups]
    many = [[name for name in names if name] for names in itertools.zip_longest(*columns)]
    return [*many, *([name] for name in COMPONENTS if name.rpartition("/")[0] in CHOOSY)]


@pytest.mark.parametrize("names", together(), ids=lambda names: " ".join(names))
def test_it_composes(names):
    options = [f"{name.removesuffix('.yaml').rpartition('/')[0]}={Path(name).stem}" for name in names]
    needs = [override for name in names for override in NEEDS.get(name, ())]
    experiment = config.check_request(config.Request((*options, *needs)))[0].experiment
    for name in names:
        part = experiment
        for key in name.split("/")[:-1]:
            part = getattr(part, key)
        assert type(part) is component(name)


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name.startswith("schedule/staleness/")])
def test_staleness_composes(name):
    chosen = ("system=devices", "schedule=fedbuff", f"schedule/staleness={Path(name).stem}")
    experiment = config.check_request(config.Request(chosen))[0].experiment
    assert type(experiment.schedule.staleness) is component(name)


@pytest.mark.parametrize("name", [name for name in NEEDS if name.startswith(("audit/", "privacy/", "schedule/"))])
def test_what_an_option_needs_is_asked_for_when_it_is_composed(name):
    with pytest.raises(UserError, match=f"^{Path(name).parent}={Path(name).stem}: .*; take "):
        config.check_request(config.Request((f"{Path(name).parent}={Path(name).stem}",)))


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name.startswith(PRESETS) and name.count("/") == 1])
def test_presets_have_no_numbers(name):
    assert set(read(name)) == {"_target_", "defaults", "blocks"}


def test_the_top_level_is_the_experiment():
    written = read("config.yaml")
    chosen = {next(iter(entry)) for entry in written["defaults"] if isinstance(entry, dict)}
    groups = chosen - {"experiment", "override hydra/hydra_logging", "override hydra/job_logging"}
    fields = {field.name: field for field in dataclasses.fields(Experiment)}
    values = {key: value for key, value in written.items() if key not in ("defaults", "hydra")}
    assert groups | values.keys() == fields.keys()
    for key, value in values.items():
        if key not in ("eval", "tags"):
            assert value == fields[key].default
    assert groups == {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "_"} - {"experiment"}


def test_the_hydra_node_sets_only_directories_and_writes_nothing():
    hydra = read("config.yaml")["hydra"]
    assert set(hydra) == {"run", "sweep", "job", "output_subdir"}
    assert hydra["output_subdir"] is None
    assert hydra["job"] == {"name": "fedsim", "chdir": False}


@pytest.fixture
def small_data(tmp_path, monkeypatch):
    """The files of `NEEDS` with a few samples each, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text("\n\n".join(f"Role {'abcdefghijkl'[k % 12]}:\nWho is there?" for k in range(24)))
    for folder in ("turbofan", "ecg"):
        Path(folder).mkdir()
    header = "@problemName ECG5000\n@univariate true\n@equalLength true\n@classLabel true 1 2\n@data\n"
    for part in ("TRAIN", "TEST"):
        series = "".join(f"{','.join(str((k * t) % 7) for t in range(12))}:{1 + k % 2}\n" for k in range(24))
        Path(f"ecg/ECG5000_{part}.ts").write_text(header + series)
    for part in ("train", "test"):
        rows = ((engine, cycle, *range(23), cycle) for engine in (1, 2, 3) for cycle in range(1, 41))
        Path(f"turbofan/{part}_FD001.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    load = "".join(f"{client},{hour},{client + hour % 24}\n" for client in (1, 2, 3) for hour in range(960))
    Path("load.csv").write_text(f"client,time,kW\n{load}")
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    Path("turbofan/RUL_FD001.txt").write_text("5\n50\n200\n")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_run(name, small_data):
    experiment = dataclasses.replace(compose(name), rounds=2, device="cpu", threads=1)
    short = dataclasses.replace(experiment.client, epochs=None, steps=2)
    experiment = dataclasses.replace(experiment, client=short)
    if hasattr(experiment.engine, "kernels"):
        experiment = dataclasses.replace(experiment, engine=dataclasses.replace(experiment.engine, kernels="torch"))
    simulation = prepare(experiment)
    assert [result.metrics["round"] for result in simulate(simulation, initial_state(simulation))] == [0, 1, 2]


def test_every_option_is_tested():
    assert len(FILES) > 30
    assert EXPERIMENTS
    assert set(config.list_options()) == {name.rpartition("/")[0] for name in FILES if "/" in name}
