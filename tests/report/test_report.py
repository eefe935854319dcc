"""The page of ``fedsim report``, read back with a parser and held against the files of the runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import fedsim
from fedsim.compare.table import Question
from fedsim.errors import UserError
from fedsim.report import command

DRAWN = {"svg", "g", "defs", "path", "use", "style", "clippath", "rect", "image"}


def nothing_loads(page):
    """Whether the page holds no script and no address, whoever named the runs."""
    tags = {name for name, _ in page.tags}
    attributes = [(name, value or "") for _, all_of_them in page.tags for name, value in all_of_them.items()]
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "form", "a", "base", "foreignobject"}
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "srcdoc", "action")]
    links = [value for name, value in attributes if name in ("href", "xlink:href")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert not re.search(r"https?:|@import|url\((?!#)", page.raw)
    return True


def test_the_table_is_that_of_the_files(make_run, page):
    scores = {(8, 0): (0.1, 0.5, 0.4), (8, 1): (0.1, 0.7, 0.6), (16, 0): (0.1, 0.9, 0.8), (16, 1): (0.1, 0.8, 0.9)}
    for (size, seed), values in scores.items():
        make_run(f"{size}-{seed}", values, size=size, seed=seed)
    found = page(baseline=("model.hidden_size=8",), target="test_accuracy=0.65")
    final = pd.Series({key: values[-1] for key, values in scores.items()}).groupby(level=0)
    rows = {row[0]: row for row in found.table("model.hidden_size", "n")[1:]}
    for size in (8, 16):
        assert f"{final.mean()[size]:.4f} ± {final.std(ddof=1)[size]:.4f}" in rows[str(size)]
    # By hand: seed 0 differs by 0.8 - 0.4, seed 1 by 0.9 - 0.6; t of 0.975 with one degree of freedom is 12.7062.
    half = 12.7062 * 0.1 / 2
    (difference,) = [cell for cell in rows["16"] if cell.startswith("+")]
    assert difference == f"+{0.35:.4f} ({0.35 - half:+.4f}, {0.35 + half:+.4f})"
    assert found.pairs["best final test_accuracy"] == f"{0.85:.4f} ± {final.std(ddof=1)[16]:.4f}"
    assert found.pairs["seed"] == "0, 1"
    assert found.pairs["model.hidden_size"] == "16, 8"  # as in the table, best first
    assert ("h1", {}) in found.tags
    assert "model.hidden_size: 16, 8" in found.text
    assert nothing_loads(found)


def test_the_clients_are_those_of_the_files(make_run, page):
    """Of eleven clients, the second worst is the tenth percentile; each number is a mean over two seeds."""
    ten = [at / 10 for at in range(11)]
    make_run("a", seed=0, clients=ten)
    make_run("b", seed=1, clients=[score / 2 for score in ten])
    make_run("c", size=4, clients=[0.3, 0.3, None])
    found = page().table("setting", "clients")
    assert found[0] == ["setting", "clients", "worst", "worst 10%", "median", "best 10%", "best"]
    rows = {row[0]: row[1:] for row in found[1:]}
    assert rows["model.hidden_size=8"] == ["11", "0.0000", "0.0750", "0.3750", "0.6750", "0.7500"]
    assert rows["model.hidden_size=4"] == ["2", "0.3000", "0.3000", "0.3000", "0.3000", "0.3000"]


def test_of_errors_the_worst_is_the_highest(make_run, page):
    make_run("a", (3.0, 2.0), metric="test_rmse", mode="min", clients=[1.0, 2.0, 9.0])
    found = page()
    assert found.table("score")[1] == [
        "test_rmse",
        "3",
        "9.0000",
        "7.6000",
        "2.0000",
        "1.2000",
        "1.0000",
    ]  # 2 + 0.8 * 7; 1 + 0.2
    assert "Judged by test_rmse: lower is better." in found.text
    assert "the lowest test_rmse: round 1." in found.text


def test_a_single_run(make_run, page):
    notes = ["2 rows filled"]
    data = {"notes": notes, "to_beat": {"what": "the most frequent", "scores": {"test_accuracy": 0.25}}}
    make_run(
        "only", clients=[0.5], data=data, data_hash="abc123", git_hash="c0ffee", versions={"torch": "9.9"}, threads=3,
        parameters=1234, bytes_down=200, bytes_up=300, seconds=75.0,
    )  # fmt: skip
    found = page()
    assert "One run" in found.text
    expected = {"final test_accuracy": "0.4000", "best test_accuracy": "0.5000", "without a model": "0.2500"}
    expected |= {"parameters": "1,234", "sent and received": "500 B", "computing time": "1 min 15 s"}
    expected |= {"torch": "9.9", "git commit of fedsim": "c0ffee", "hash of the data": "abc123", "seeds": "0"}
    assert {name: found.pairs[name] for name in expected} == expected
    assert found.table("round")[1:] == [["0", "0.1000", "0"], ["1", "0.5000", "100"], ["2", "0.4000", "200"]]
    assert "2 rows filled" in found.text
    assert "fedsim run only/config.yaml" in found.text
    assert "The number of threads was left to the machine; it was 3: add threads=N." in found.text
    assert "It was picked on the test data themselves" in found.text
    assert nothing_loads(found)


def test_a_run_that_diverged(make_run, page):
    make_run("only", (0.1, 0.5), status="diverged", reason="the loss is nan")
    found = page()
    assert found.pairs["final test_accuracy"] == "diverged"
    assert "Diverged after 1 rounds." in found.text
    assert "only: diverged after round 1" in found.text
    assert "diverged (the loss is nan)" in found.text


def test_validation_data_are_named(make_run, page):
    make_run("a", metric="validation_loss", mode="min", config={"stop": {"metric": None, "patience": 3}})
    found = page()
    assert "validation_loss is measured on samples that were held out of the clients' training data." in found.text
    assert "The run could end early by validation_loss (patience 3), which is measured on samples" in found.text
    assert "picked on the test data" not in found.text


def held_back(make_run, name, size, validation, test, unseen):
    """A run whose round is chosen on validation data, with two clients that train and two that never do."""
    best = {"metric": "validation_accuracy", "mode": "max", "on": "validation"}
    path = make_run(name, test, size=size, best=best, items={"test": 40, "validation": 20})
    table = pd.read_csv(path / "metrics.csv")
    table.assign(validation_accuracy=validation, unseen_accuracy=unseen).to_csv(path / "metrics.csv", index=False)
    clients = {"client": range(4), "name": list("abcd"), "seen": [1, 1, 0, 0], "test_samples": 9, "test_items": 9}
    clients |= {"test_accuracy": [test[-1] - 0.1, test[-1] + 0.1, None, None]}
    clients |= {"unseen_accuracy": [None, None, unseen[-1] - 0.05, unseen[-1] + 0.05]}
    pd.DataFrame(clients).to_csv(path / "clients.csv", index=False)


def test_what_validation_data_chose_is_reported_on_test_data(make_run, page):
    """Validation data choose round 1 of both, and 8 units by 0.8 against 0.7; test data prefer 4 units."""
    held_back(make_run, "a", 8, (0.1, 0.8, 0.3), (0.1, 0.5, 0.6), (0.1, 0.4, 0.3))
    held_back(make_run, "b", 4, (0.1, 0.7, 0.3), (0.1, 0.9, 0.7), (0.1, 0.6, 0.5))
    found = page()
    assert found.pairs["chosen test_accuracy"] == "0.5000"
    assert "model.hidden_size=8, the best by chosen validation_accuracy: 0.8000" in found.text
    assert "Judged by test_accuracy, in the round with the best validation_accuracy: higher is better." in found.text
    rows = found.table("run", "model.hidden_size")
    assert rows[1][:3] == ["a", "8", "0.6000"]
    assert rows[1][3:] == ["0.5000", "0.8000", "1", "0.4000", "0.1000"]  # 0.5 - 0.4
    text = " ".join(found.text.split())
    assert text.count("chosen on validation_accuracy") + text.count("Chosen on validation_accuracy") == 1
    assert (
        "validation_accuracy is measured on samples that were held back from training, with the global model." in text
    )
    assert "The best row of the table is picked by chosen validation_accuracy too." in text
    assert "optimistic" not in text
    assert "picked on the test data" not in text
    assert "picks it on the test data" not in text
    clients = {row[0]: row[1:] for row in found.table("setting", "clients")[1:]}
    assert clients["model.hidden_size=8"][:2] == ["2", "0.5000"]  # 0.6 - 0.1
    assert clients["model.hidden_size=8, unseen"][:2] == ["2", "0.2500"]  # 0.3 - 0.05
    assert "unseen: clients that never train" in text
    text = " ".join(page(by="final").text.split())
    assert "The best row is chosen on test data: optimistic (--by chosen goes by validation_accuracy)." in text


def test_a_single_run_that_held_data_back(make_run, page):
    held_back(make_run, "a", 8, (0.1, 0.8, 0.3), (0.1, 0.5, 0.6), (0.1, 0.4, 0.3))
    found = page()
    cards = {"chosen test_accuracy": "0.5000", "chosen validation_accuracy": "0.8000", "gap to unseen": "0.1000"}
    assert {name: found.pairs[name] for name in cards} == cards
    assert "best test_accuracy" not in found.pairs
    assert "Chosen on validation_accuracy (round 1), reported on test_accuracy" in found.text
    scores = {row[0]: row[1:] for row in found.table("score")[1:]}
    assert list(scores) == ["test_accuracy", "unseen_accuracy"]
    assert scores["unseen_accuracy"] == ["2", "0.2500", "0.2600", "0.3000", "0.3400", "0.3500"]


def test_old_and_new_validation_columns_are_told_apart(make_run, page):
    config = {"stop": {"metric": "validation_loss", "patience": 3}}
    best = {"metric": "test_accuracy", "mode": "max", "on": "test"}
    make_run("a", config=config, best=best)
    assert "by validation_loss (patience 3), which is measured on samples that were held back from" in page().text
    make_run("a2", config={"stop": {"metric": "local_validation_loss", "patience": 3}}, best=best)
    assert "each client's own validation samples, with the model that it trained itself" in page().text


def test_a_bad_run_among_good_ones(make_run, page, tmp_path, capsys):
    make_run("good")
    make_run("better", (0.1, 0.9), size=4)
    bad = make_run("bad", size=2)
    (bad / "metrics.csv").write_text("round,test_accuracy\n0,many\n")
    (make_run("gone", size=1) / "metrics.csv").unlink()
    found = page()
    assert [row[0] for row in found.table("run", "model.hidden_size")[1:]] == ["better", "good"]
    assert "not in this table: 2 runs that could not be read" in found.text
    assert "bad/metrics.csv: column 'test_accuracy' holds something other than numbers" in found.text
    assert capsys.readouterr().err.count("warning: ") == 2
    assert str(tmp_path) not in re.sub(r"fedsim report .*", "", found.raw)  # the folder's own path is nobody's business


def test_nothing_that_can_be_read(make_run, page, tmp_path):
    (make_run("gone") / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"without metrics\.csv"):
        page()
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "value", ["<script>alert(1)</script>", "{{ 7*7 }}", '" onload="x', "&lt;b&gt;", "a\u202eb\x1b[2J"]
)
def test_whatever_others_write_is_shown_and_does_nothing(make_run, page, value):
    name = value.replace("/", "")
    data = {"notes": [value], "to_beat": {"what": value, "scores": {value: 1.0}}, "errors": value}
    make_run(
        name, clients=[0.5], status=value, reason=value, data_hash=value, git_hash=value, versions={value: value},
        data=data, device=value, config={"name": value, "tags": value, value: value, "model": {"_target_": value}},
    )  # fmt: skip
    make_run("other", size=4)
    found = page()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    assert shown in found.text
    assert all(c.isprintable() or c == "\n" for c in found.raw)
    assert nothing_loads(found)


def test_a_summary_of_wrong_types(make_run, page):
    """Every value of another type than it should have: nothing of it is shown, and nothing ends with a traceback."""
    wrong = {"versions": ["x"], "git_hash": {}, "data": [1], "parameters": "many", "seconds": None, "resumed": 3}
    make_run("a", reason=[1], device=True, threads={}, data_hash=[], bytes_up="x", **wrong)
    make_run("b", data={"notes": 3, "to_beat": {"what": 1, "scores": [1]}}, seed=1)
    found = page()
    assert found.pairs["device"] == "not recorded"
    assert "parameters" not in found.pairs


@pytest.mark.parametrize(
    "content", ["", "client\n0\n", "a,b\n1\n2,3,4\n", "client,name,test_accuracy\n0,x,many\n", "\0\n"]
)
def test_clients_that_cannot_be_read_are_left_out(make_run, page, content):
    (make_run("a") / "clients.csv").write_text(content)
    assert "Clients" not in re.findall(r"<h2>(.*)</h2>", page().raw)


def test_an_end_without_a_record(make_run, page, tmp_path):
    folder = make_run("a")
    (folder / "config.yaml").unlink()
    (folder / "summary.json").unlink()
    found = page(str(folder / "metrics.csv"))
    assert "nothing but its rounds is known" in found.text
    assert found.pairs["git commit of fedsim"] == "not recorded"
    assert "No settings are recorded." in found.text


def recorded(folder, task, hydra=()):
    """Hydra's record of what was typed, next to a run."""
    (folder / ".hydra").mkdir()
    record = {"overrides": {"task": list(task), "hydra": list(hydra)}, "runtime": {"choices": {"model": "gru"}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": record}))


def test_the_command_of_a_run(make_run, page):
    recorded(make_run("a"), ["model=gru", "name=two words"], ["hydra.run.dir=/home/me/a", "hydra.mode=RUN"])
    assert "fedsim run model=gru 'name=two words'\n" in page().text + "\n"
    assert "/home/me" not in page().text


@pytest.mark.parametrize(
    "word", ["--allow-module=evil", "hydra.sweeper.storage=x", "tracker.tracking_uri=x", "name=\x1b[2J"]
)
def test_a_command_that_does_more_than_set_up_a_run_is_not_shown(make_run, page, word):
    recorded(make_run("a"), ["model=gru", word])
    assert "fedsim run model=gru" not in page().text


def test_the_command_of_a_sweep(make_run, page, tmp_path):
    for seed in (0, 1):
        recorded(make_run(f"sweep/{seed}", seed=seed), [f"seed={seed}"])
    sweep = tmp_path / "runs" / "sweep"
    (sweep / "sweep.yaml").write_text("format_version: 1\n")
    record = {"hydra": {"overrides": {"task": ["seed=0,1"], "hydra": ["hydra.sweep.dir=/x", "hydra.mode=MULTIRUN"]}}}
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(record))
    found = page()
    assert "fedsim run -m seed=0,1" in found.text
    assert "fedsim run seed=" not in found.text  # each job's own is part of the sweep's
    assert "A sweep of 2 runs" in found.text
    assert "/x" not in found.pairs.values()


def test_the_same_runs_give_the_same_page(make_run, page):
    make_run("a")
    make_run("b", size=4)
    assert page().raw == page().raw


def test_the_curves_are_those_of_compare_in_the_colours_of_the_page(make_run, page):
    pytest.importorskip("matplotlib")
    for size in (4, 8):
        for rounds in (2, 3):
            make_run(f"{size}-{rounds}", size=size, config={"rounds": rounds})
    found = page()
    pictures = [attributes for name, attributes in found.tags if name == "svg"]
    assert [one["aria-label"] for one in pictures] == ["Learning curves", "Heat map"]
    inside = re.findall(r"<svg.*?</svg>", found.raw, re.DOTALL)
    assert {tag.lower() for one in inside for tag in re.findall(r"<([a-zA-Z]+)", one)} <= DRAWN
    assert "currentColor" in inside[0]
    assert "#ffffff" not in inside[0]  # the page is its paper
    assert nothing_loads(found)


def test_without_matplotlib_a_line_says_how_to_get_it(make_run, page, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    make_run("a")
    found = page()
    assert "No curves: matplotlib is not installed." in found.text
    assert "python -m pip install" in found.text
    assert "svg" not in {name for name, _ in found.tags}


def test_it_is_written_whole_or_not_at_all(make_run, tmp_path):
    run = make_run("a")
    for name in ("page.txt", "metrics.csv"):
        with pytest.raises(UserError, match=r"must end in \.html"):
            command.write([str(run)], Question(), run / name)
    with pytest.raises(UserError, match="cannot write"):
        command.write([str(run)], Question(), tmp_path / "missing" / "page.html")
    command.write([str(run)], Question(), run / "page.html")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.csv", "page.html", "summary.json"]


def test_its_command_writes_it_again(make_run, tmp_path):
    question = Question(metric="test_accuracy", last=2, target="test_accuracy=0.4", baseline=("a b",), keys=("x", "y"))
    words = command.command(["my runs"], question, Path("p.html"))
    assert words == (
        "fedsim report 'my runs' --metric test_accuracy --last 2 --target test_accuracy=0.4 --baseline 'a b' "
        "--keys x,y --out p.html"
    )


def test_the_template_and_the_style_are_part_of_the_package():
    """What is declared as package data is what lies there."""
    folder = Path(fedsim.__file__).parent / "report"
    text = (folder.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (declared,) = re.findall(r'"fedsim\.report" = (\[.*\])', text)
    assert sorted(json.loads(declared)) == sorted(
        file.name for file in folder.iterdir() if file.suffix in (".css", ".jinja")
    )


def test_torch_is_not_needed(make_run, tmp_path):
    """A page is made in a second, as a table is."""
    run = make_run("a")
    code = (
        "import sys, pathlib; from fedsim.report import command; from fedsim.compare.table import Question; "
        f"command.write([{str(run)!r}], Question(), pathlib.Path({str(tmp_path / 'p.html')!r})); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
