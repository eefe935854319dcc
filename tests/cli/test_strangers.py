"""Configs and runs of strangers: what they may not say, each written as the attack."""

import json
import os
import pickle
import sqlite3
import time
from pathlib import Path

import pytest
import yaml

SECRET = "s3cr3t"  # noqa: S105  # stands for one
SYNTHETIC = "_target_: fedsim.data.synthetic.Synthetic\ntask: classification\nclients: 3\nsamples_per_client: 4\n"
SYNTHETIC += "test_samples_per_client: 2\nlength: 3\nfeatures: 2\n"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("FEDSIM_SECRET", SECRET)


def written(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def experiment(write_config):
    """Write an experiment of a stranger; return the words that choose it."""

    def write(text):
        folder = write_config("experiment/theirs.yaml", f"# @package _global_\n{text}")
        return ["experiment=theirs", "--config-dir", folder]

    return write


# ---------------------------------------------------------------------------------------------------------------------
# places


PLACES = (
    *("/tmp/x", "..", "../x", "outputs/../../x", "outputs", ".", "other", "~/x", "${hydra.runtime.cwd}/x"),  # noqa: S108  # nothing is made there
    *("outputs/${name}/x", "${name}", "outputs/${now:%Y}/../../x"),
)


@pytest.mark.parametrize("place", PLACES)
def test_a_file_places_no_run_outside_outputs(refused, experiment, tiny, elsewhere, place):
    chosen = experiment(f"name: ../../y\nhydra: {{run: {{dir: '{place}'}}}}\n")
    before = set(elsewhere.parent.rglob("*"))
    line = refused("run", *tiny, *chosen)
    assert line.startswith("hydra.run.dir=")
    assert "a file may place a run only within" in line
    assert set(elsewhere.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "setting", ["dir: /tmp/x", "dir: ../x", "subdir: ../../../x", "subdir: ..", "subdir: '${name}'"]
)
@pytest.mark.parametrize("typed", [(), ("hydra.sweep.dir=mine",)])
def test_a_file_places_no_sweep_outside_outputs(refused, experiment, tiny, elsewhere, setting, typed):
    if typed and setting.startswith("dir"):
        typed = ("seed=1",)
    chosen = experiment(f"name: ../../y\nhydra: {{sweep: {{{setting}}}}}\n")
    before = set(elsewhere.parent.rglob("*"))
    assert "a file may place a run only within" in refused("run", "-m", *tiny, *typed, *chosen)
    assert set(elsewhere.parent.rglob("*")) == before


def test_a_file_places_a_run_within_outputs_and_the_command_line_anywhere(fedsim, experiment, tiny):
    chosen = experiment("name: mine\nhydra: {run: {dir: 'outputs/${name}'}}\n")
    assert fedsim("run", *tiny, *chosen).code == 0
    assert Path("outputs/mine/metrics.csv").exists()
    assert fedsim("run", *tiny, *chosen, "hydra.run.dir=../beside").code == 0
    assert Path("../beside/metrics.csv").exists()


@pytest.mark.parametrize("name", ["../../y", "/tmp/y", "a/../../../y"])  # noqa: S108  # nothing is made there
def test_a_strangers_name_leads_out_of_no_typed_folder(refused, fedsim, experiment, tiny, name):
    line = refused("run", *tiny, *experiment(f"name: '{name}'\n"), "hydra.run.dir=${name}/x")
    assert "which leads out of the folder that it names" in line
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    Path("run/config.yaml").write_text(Path("run/config.yaml").read_text().replace("name: null", f"name: '{name}'"))
    line = refused("resume", "run", "seed=3", "hydra.run.dir=outputs/${name}")
    assert "which leads out of the folder that it names" in line or name == "/tmp/y"  # noqa: S108  # nothing is made there
    assert not Path("../y").exists()


# ---------------------------------------------------------------------------------------------------------------------
# what is loaded or contacted


@pytest.mark.parametrize(
    ("plugins", "setting"),
    [
        (("hydra/sweeper=optuna",), "sweeper: {storage: 'sqlite:///cfg/study.db', study_name: x}"),
        (("hydra/launcher=ray",), "launcher: {ray: {init: {address: 'ray://evil.example:10001'}}}"),
        (("hydra/launcher=submitit_local",), "launcher: {submitit_folder: ../x}"),
    ],
)
def test_a_file_names_nothing_that_is_loaded_or_contacted(fedsim, experiment, tiny, plugins, setting):
    answer = fedsim("run", "-m", *tiny, "seed=1,2", *plugins, *experiment(f"hydra: {{{setting}}}\n"))
    if "is not installed" in answer.err:
        pytest.skip(answer.err)
    assert answer.code == 2
    assert "is named on the command line alone" in answer.err
    assert not list(Path().rglob("*.csv"))


@pytest.mark.parametrize("key", ["hydra.sweeper.storage", "hydra.sweep.dir", "hydra/sweeper"])
def test_the_values_of_a_sweep_say_nothing_about_hydra(refused, experiment, tiny, key):
    chosen = experiment(f"hydra: {{sweeper: {{params: {{{key}: basic}}}}}}\n")
    assert "must be about the run, not about Hydra" in refused("run", "-m", *tiny, *chosen, "seed=1,2")


def test_a_file_chooses_no_sweeper(refused, experiment, tiny):
    chosen = experiment("defaults: [{override /hydra/sweeper: optuna}]\n")
    line = refused("run", "-m", *tiny, *chosen, "seed=1,2")
    assert "hydra/sweeper=optuna: is chosen on the command line alone" in line or "Could not find" in line  # no plugin


@pytest.mark.parametrize("launcher", ["submitit_slurm", "ray"])
def test_a_file_chooses_no_other_machine(refused, experiment, tiny, launcher):
    chosen = experiment(f"defaults: [{{override /hydra/launcher: {launcher}}}]\n")
    line = refused("run", "-m", *tiny, *chosen, "seed=1,2")
    said = f"hydra/launcher={launcher}: is chosen on the command line alone" in line
    assert said or "Could not find" in line  # no plugin


class Evil:
    """A pickle that leaves a trace."""

    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_cma_es_reads_no_study_that_exists(refused, fedsim, tiny):
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    study = ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=x"]
    swept = [
        "client.optimizer.lr=interval(0.1,0.2)",
        "client.optimizer.momentum=interval(0,0.5)",
        "hydra.sweep.dir=one",
    ]
    assert fedsim("run", "-m", *tiny, *words, *study, *swept).code == 0
    with sqlite3.connect("study.db") as database:  # where Optuna's sampler keeps its state
        database.execute(
            "insert into trial_system_attributes (trial_id, key, value_json) values (1, 'cma:optimizer:0', ?)",
            (json.dumps(pickle.dumps(Evil()).hex()),),
        )
    swept[-1] = "hydra.sweep.dir=two"
    line = refused("run", "-m", *tiny, *words, *study, *swept, "hydra/sweeper/sampler=cmaes")
    assert line.startswith("hydra.sweeper.storage=sqlite:///study.db: exists, and hydra/sweeper/sampler=cmaes")
    for storage in (
        "sqlite:///file:study.db?uri=true",
        "sqlite:///./study.db",
        f"sqlite:///{Path('study.db').absolute()}",
    ):
        refused("run", "-m", *tiny, *words, f"hydra.sweeper.storage='{storage}'", *swept, "hydra/sweeper/sampler=cmaes")
    assert not Path("ran").exists()
    assert fedsim("run", "-m", *tiny, *words, *study, *swept).code == 0  # the default sampler continues it


# ---------------------------------------------------------------------------------------------------------------------
# secrets


READERS = (
    *("${oc.env:FEDSIM_SECRET}", "x ${oc.env:FEDSIM_SECRET,y}", "${oc.decode:${oc.env:FEDSIM_SECRET}}"),
    *("${oc.decode:'${oc.env:FEDSIM_SECRET}'}", "${${tags.0}:FEDSIM_SECRET}", "${oc.${tags.1}:FEDSIM_SECRET}"),
    *("${oc.select:x,${oc.env:FEDSIM_SECRET}}", "${hydra:runtime.cwd}", "${python_version:}", "${oc.create:{a: 1}}"),
)


@pytest.mark.parametrize("value", READERS)
def test_a_file_reads_neither_environment_nor_machine(refused, experiment, tiny, value):
    chosen = experiment(f"tags: [oc.env, env]\nname: {json.dumps(value)}\n")
    line = refused("run", *tiny, *chosen, "hydra.run.dir=run")
    assert "a file may not read the environment or the machine" in line
    assert SECRET not in line
    assert not Path("run").exists()


def test_the_list_of_options_and_aliases_read_nothing_either(refused, experiment, tiny):
    for text in (
        "defaults: [{override /model: '${oc.env:FEDSIM_SECRET}'}]\n",
        "tags: [&a '${oc.env:FEDSIM_SECRET}']\nname: *a\n",
        'name: "${oc.\\x65nv:FEDSIM_SECRET}"\n',
        "name: >-\n  ${oc.env:FEDSIM_SECRET}\n",
    ):
        line = refused("run", *tiny, *experiment(text))
        assert "a file may not read the environment or the machine" in line
        assert SECRET not in line


def test_keys_and_the_time_can_be_read(fedsim, experiment, tiny):
    chosen = experiment("name: '${seed}_${now:%Y}_${oc.select:nothing,x}'\n")
    assert fedsim("run", *tiny, *chosen, "seed=7", "hydra.run.dir=run").code == 0
    assert f"name: 7_{time.strftime('%Y')}_x" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize("value", ["${oc.env:FEDSIM_SECRET}", "${seed}", "\\\\${seed}", "a${oc.decode:b}"])
def test_a_record_is_never_interpolated(refused, fedsim, tiny, value):
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    for changed in ({"name": value}, {"tags": [value]}):
        record = yaml.safe_load(Path("run/config.yaml").read_text()) | changed
        Path("run/config.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
        for command in (("resume", "run", "rounds=3"), ("resume", "run"), ("evaluate", "run"), ("export", "run")):
            line = refused(*command)
            assert "nothing in a record is replaced by other values" in line
            assert SECRET not in line


@pytest.mark.parametrize("name", ["${seed}", "\\${seed}", "\\\\${oc.env:HOME}", "a\\\\\\${b", "$\\{", "\\"])
def test_a_name_that_looks_like_an_interpolation_is_kept(fedsim, tiny, name):
    escaped = name.replace("\\", "\\\\") if "${" in name else name
    escaped = escaped.replace("${", "\\${").replace("'", "\\'")
    answer = fedsim("run", *tiny, f"name='{escaped}'" if name != "\\" else 'name="\\\\"', "hydra.run.dir=run")
    if answer.code == 2:  # Hydra's grammar does not take it
        pytest.skip(answer.err)
    assert fedsim("resume", "run", "rounds=3").code == 0


# ---------------------------------------------------------------------------------------------------------------------
# trackers


ELSEWHERE = {
    "tracking_uri": ("mlflow", "tracking_uri: 'http://evil.example'", "tracker.tracking_uri=http://evil.example"),
    "mode": ("wandb", "mode: online", "tracker.mode=online"),
    "file": ("mlflow", "tracking_uri: 'sqlite:////tmp/other.db'", "tracker.tracking_uri=sqlite:////tmp/other.db"),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_tracker_leaves_the_machine_only_by_the_command_line(refused, fedsim, experiment, tiny, kind, monkeypatch):
    option, setting, word = ELSEWHERE[kind]
    chosen = experiment(f"defaults: [{{override /tracker: {option}}}]\ntracker: {{{setting}}}\n")
    line = refused("run", *tiny, *chosen)
    assert line.startswith(f"{word}: what is sent elsewhere, or written outside outputs, is named on the command line")
    assert refused("run", "-m", *tiny, *chosen, "seed=1,2") == line
    swept = f"hydra: {{sweeper: {{params: {{{word.partition('=')[0]}: \"'{word.partition('=')[2]}'\"}}}}}}\n"
    assert refused("run", "-m", *tiny, *experiment(swept), f"tracker={option}", "seed=1,2") == line
    answer = fedsim("run", *tiny, *chosen, word, "--dry-run")
    assert "is named on the command line" not in answer.err  # it may not be installed


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_record_sends_nothing(refused, fedsim, tiny, kind):
    option, setting, word = ELSEWHERE[kind]
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    record = yaml.safe_load(Path("run/config.yaml").read_text())
    target = {"mlflow": "MLflow", "wandb": "Wandb"}[option]
    record["tracker"] = {"_target_": f"fedsim.recording.trackers.{target}", **yaml.safe_load(setting)}
    Path("run/config.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    line = refused("resume", "run", "rounds=3")
    assert line.startswith(f"{word}: what is sent elsewhere")
    assert fedsim("resume", "run", "rounds=3", "tracker=none").code == 0


# ---------------------------------------------------------------------------------------------------------------------
# time and memory


@pytest.mark.parametrize("place", ["experiment", "data"])
def test_files_that_grow(refused, write_config, tiny, place):
    doubled = "x0: &x0 [a, b]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 40))
    head = {"experiment": "# @package _global_\n", "data": SYNTHETIC}[place]
    texts = {
        "aliases": head + doubled,
        "recursion": f"{head}tags: &r [*r]\n",
        "merge": f"{head}a: &a {{<<: *a}}\n",
        "depth": f"{head}tags: {'[' * 100_000}\n",
        "size": f"{head}# {'x' * 2_000_000}\n",
        "nodes": f"{head}tags: [{'a,' * 400_000}]\n",
        "interpolations": head
        + "x0: aaaaaaaa\n"
        + "".join(f"x{n}: '${{x{n - 1}}}${{x{n - 1}}}'\n" for n in range(1, 50)),
        "mappings": head
        + "x0: {a: 1}\n"
        + "".join(f"x{n}: {{a: '${{x{n - 1}}}', b: '${{x{n - 1}}}'}}\n" for n in range(1, 50)),
        "dynamic": head
        + "z: x\nx0: aaaaaaaa\n"
        + "".join(f"x{n}: '${{${{z}}{n - 1}}}${{${{z}}{n - 1}}}'\n" for n in range(1, 50)),
    }
    for name, text in texts.items():
        if place == "data":
            for number in range(50):
                text = text.replace(f"${{x{number}}}", f"${{data.x{number}}}")
        folder = write_config(f"{place}/theirs.yaml", text)
        begun = time.monotonic()
        line = refused("run", *tiny[6:], f"{place}=theirs", "--config-dir", folder)
        assert time.monotonic() - begun < 10, name
        assert len(line) < 500, name


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder"])
def test_a_file_without_an_end(refused, write_config, tiny, kind):
    folder = write_config("experiment/other.yaml", "seed: 1\n")
    path = Path(folder) / "experiment" / "theirs.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "theirs" in refused("run", *tiny, "experiment=theirs", "--config-dir", folder)


# ---------------------------------------------------------------------------------------------------------------------
# suggestions


@pytest.mark.parametrize(
    "words",
    [
        ["--allow-module=evil"], ["--allow-module", "evil"], ["seed=1", "--config-dir=x"], ["-m"],
        ["hydra.sweeper.storage=sqlite:///x"], ["tracker.tracking_uri=http://evil.example"],
        ["a=b\n--allow-module=evil"], ["\u202e=1"], ["; rm -rf /"], [["seed=1"]], [None],
    ],
)  # fmt: skip
def test_a_strangers_sweep_suggests_no_words_of_its_own(refused, words):
    Path("sweep/0").mkdir(parents=True)
    Path("sweep/sweep.yaml").write_text("format_version: 1\njobs: {}\n")
    overrides = {"hydra": {"overrides": {"task": words, "hydra": []}}}
    Path("sweep/multirun.yaml").write_text(yaml.safe_dump(overrides, allow_unicode=True))
    line = refused("resume", "sweep")
    assert "a sweep, which goes on with: fedsim run -m ... --resume sweep" in line


def test_a_message_is_one_line_of_the_log(fedsim, tiny):
    """A line break in what a message quotes would begin a line that fedsim never wrote."""
    import logging

    from fedsim.recording.run_log import logging_to

    Path("run").mkdir()
    with logging_to(Path("run")):
        logging.getLogger("fedsim").warning("version %s", "1\nexport PATH=evil\x1b[31m\r\u202e")
    (line,) = Path("run/run.log").read_text().splitlines()
    assert line.endswith("version 1\\nexport PATH=evil\\x1b[31m\\r\\u202e")
