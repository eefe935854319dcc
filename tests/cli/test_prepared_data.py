"""What was fitted to the data of a run goes with its model: other data are prepared by it, or refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

RUN = ("model.hidden_size=4", "rounds=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=plain")
SGD = ("client/optimizer=sgd", "client.optimizer.lr=0.05")
TABLE = ("data=csv", "data.window=4", "data.client_column=key", "partition=natural", *SGD)


@pytest.fixture(autouse=True)
def cache_folder(elsewhere, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))


def table(name, states=("low", "mid"), scale=1.0, order=("key", "heat", "load", "state"), keys=("a", "b")):
    """80 rows a client; the load follows the heat, and the state says whether the heat is above 5."""
    rng = np.random.default_rng(7)
    heat = np.repeat(rng.integers(0, 10, 16 * len(keys)), 5) + 0.1 * rng.standard_normal(80 * len(keys))
    frame = pd.DataFrame({"key": np.repeat(keys, 80), "heat": scale * heat, "load": 100 + 3 * heat})
    frame["state"] = np.where(heat > 4.5, states[1], states[0])
    frame[[*order]].to_csv(name, index=False)


def forecast(fedsim, *more):
    table("first.csv")
    answer = fedsim("run", *TABLE, "data.path=first.csv", "data.target_column=load", *RUN, "hydra.run.dir=run", *more)
    assert answer.code == 0, answer
    return answer


def scores(answer):
    assert answer.code == 0, answer
    return {name: float(value) for name, value in (line.split() for line in answer.out.splitlines()[1:])}


def facts(directory, number=2):
    with safe_open(Path(directory, "checkpoints", f"round_{number:06d}.safetensors"), framework="pt") as file:
        return json.loads(file.metadata()["fedsim"])["run"]


def test_the_record_of_what_was_fitted(fedsim):
    """Mean and deviation are pandas' over the training rows: of each client's 80 rows, 16 test and 5 lie between."""
    answer = forecast(fedsim)
    frame = pd.read_csv("first.csv")
    training = pd.concat([rows.iloc[: 80 - 16 - 5] for _, rows in frame.groupby("key")])[["heat", "load"]]
    known = json.loads(Path("run/summary.json").read_text())["data"]["prepared"]
    assert [column["name"] for column in known["features"]] == ["heat", "load"]
    for column in (*known["features"], *known["targets"]):
        assert column["shift"] == pytest.approx(training[column["name"]].mean(), rel=1e-12)
        assert column["scale"] == pytest.approx(training[column["name"]].std(ddof=0), rel=1e-12)
    assert facts("run")["prepared"] == known
    assert "errors: test_rmse and test_mae are in the unit of 'load'" in answer.out
    assert "to beat: test_rmse" in answer.out


def test_columns_in_another_order_and_other_units(fedsim):
    forecast(fedsim)
    table("order.csv", order=("state", "load", "heat", "key"))
    table("scaled.csv", scale=1000)
    same, order, scaled = (
        scores(fedsim("evaluate", "run", *more)) for more in ((), ("data.path=order.csv",), ("data.path=scaled.csv",))
    )
    assert order == same
    assert scaled["test_rmse"] > 2 * same["test_rmse"]


def test_new_data_are_not_scaled_by_their_own_rows(fedsim):
    """Rows of the later file do not change how its test windows are seen: the same as in the file of the run."""
    forecast(fedsim)
    table("later.csv", keys=("a", "b", "c"))
    frame = pd.read_csv("later.csv")
    frame.loc[frame["key"] == "c", "heat"] = 1e6
    frame[frame["key"] != "c"].to_csv("without.csv", index=False)
    others, third = frame.index[frame["key"] != "c"], frame.index[frame["key"] == "c"]
    frame.loc[[*others, *third[:5]]].to_csv("with.csv", index=False)
    one = scores(fedsim("evaluate", "run", "data.path=without.csv"))
    two = scores(fedsim("evaluate", "run", "data.path=with.csv", "data.short=drop"))
    assert one == two


def test_labels(fedsim):
    """A model that knows low and mid is scored on files with both, or one of them, and not on one with another."""
    table("first.csv")
    settings = (*TABLE, "data.target_column=state", "data.task=classification", *RUN, "rounds=8")
    assert fedsim("run", *settings, "data.path=first.csv", "hydra.run.dir=run").code == 0
    assert json.loads(Path("run/summary.json").read_text())["data"]["prepared"]["labels"] == ["low", "mid"]
    table("later.csv", states=("low", "high"))
    answer = fedsim("evaluate", "run", "data.path=later.csv")
    assert answer.code == 2
    assert "these data have labels that the model does not know: 'high'; it knows 'low', 'mid'" in answer.err
    pd.read_csv("first.csv").assign(state="mid").to_csv("one.csv", index=False)
    table("words.csv", states=("mid", "low"))  # each label where the other one belongs
    files = ("first.csv", "one.csv", "words.csv")
    right, one, wrong = (scores(fedsim("evaluate", "run", f"data.path={f}"))["test_accuracy"] for f in files)
    assert right > 0.9
    assert 0 < one < 1
    assert wrong == pytest.approx(1 - right)
    answer = fedsim("run", *settings, "data.path=later.csv", "init_from=run", "hydra.run.dir=other")
    assert answer.code == 2
    assert answer.err.startswith("error: init_from=run: ")
    assert not Path("other").exists()


def test_init_from_prepares_the_data_as_the_model_knows_them(fedsim):
    forecast(fedsim)
    table("scaled.csv", scale=1000)
    again = (*TABLE, "data.target_column=load", *RUN, "rounds=1", "init_from=run")
    for name in ("first", "scaled"):
        assert fedsim("run", *again, f"data.path={name}.csv", f"hydra.run.dir={name}").code == 0
    assert facts("run")["prepared"] == facts("first", 1)["prepared"] == facts("scaled", 1)["prepared"]
    answer = fedsim("run", *again, "data.path=first.csv", "data.scale=client", "hydra.run.dir=third")
    assert answer.code == 2
    assert "each client is scaled by itself, not all clients are scaled together" in answer.err


def test_each_client_keeps_its_own_scale(fedsim):
    """With data.scale=client, a client that the run did not have is scaled by its own rows, and that is said."""
    forecast(fedsim, "data.scale=client")
    known = facts("run")["prepared"]
    assert [*known["clients"]] == ["a", "b"]
    recorded = pd.read_csv("run/metrics.csv").iloc[-1]
    assert scores(fedsim("evaluate", "run"))["test_rmse"] == pytest.approx(recorded["test_rmse"], rel=1e-5)
    table("later.csv", keys=("b", "c"))
    answer = fedsim("evaluate", "run", "data.path=later.csv")
    assert answer.code == 0
    assert "1 of 2 clients are not among those of the model's data, and are scaled by their own training" in answer.err


def test_resume_uses_the_record(fedsim, monkeypatch):
    """The scales of the record are applied, not fitted again: with them changed, the data are no longer the same."""
    forecast(fedsim)
    assert fedsim("resume", "run", "rounds=3").code == 0
    assert facts("run", 3)["prepared"] == facts("run", 2)["prepared"]
    monkeypatch.setattr("fedsim.data.window_scales.moments", lambda *_: pytest.fail("fitted again"))
    assert fedsim("resume", "run", "rounds=4").code == 0


def test_the_file_beside_an_exported_model(fedsim):
    """By hand, from the file alone: the first test window of client a gives the prediction that fedsim scores."""
    forecast(fedsim, "data.horizon=2")
    assert fedsim("export", "run").code == 0
    known = json.loads(Path("run/export/model.preprocessing.json").read_text())
    assert (known["horizon"], known["quantiles"]) == (2, [])
    shift, scale = np.array([(c["shift"], c["scale"]) for c in known["features"]]).T
    (target,) = known["targets"]
    import torch

    weights = load_file("run/export/model.safetensors")
    net = torch.nn.GRU(2, 4, batch_first=True)
    net.load_state_dict({k.removeprefix("recurrent."): v for k, v in weights.items() if k.startswith("recurrent.")})
    errors = []
    for _, rows in pd.read_csv("first.csv").groupby("key"):
        values = rows[[c["name"] for c in known["features"]]].to_numpy()
        for start in range(64, 80 - 4 - 2 + 1):
            seen = torch.tensor((values[start : start + 4] - shift) / scale, dtype=torch.float32)
            state = net(seen[None])[1][-1]
            output = (state @ weights["head.weight"].T + weights["head.bias"]).detach().numpy()[0]
            errors.append(output * target["scale"] + target["shift"] - values[start + 4 : start + 6, 1])
    recorded = pd.read_csv("run/metrics.csv").iloc[-1]
    assert recorded["test_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
    assert fedsim("export", "run", "--prune", "0.5").code == 0


def test_vocabulary(fedsim):
    """A run's characters are those of its own text, and another text is read with them."""
    Path("one.txt").write_text("abcab cabba " * 40)
    Path("two.txt").write_text("dabca dbbca " * 40)
    text = ("data=text", "data.clients_by=chunk", "data.chunk_size=120", "data.sequence_length=10", "partition=natural")
    assert fedsim("run", *text, "data.path=one.txt", *RUN, "hydra.run.dir=run").code == 0
    known = json.loads(Path("run/summary.json").read_text())["data"]["prepared"]["vocabulary"]
    assert known == ["<padding>", "<unknown>", " ", "a", "b", "c"]
    answer = fedsim("evaluate", "run", "data.path=two.txt")
    assert answer.code == 0, answer
    assert "80 characters are not in the model's vocabulary, and count as unknown" in answer.err
    assert "did not record" not in answer.err
    assert fedsim("run", *text, "data.path=two.txt", *RUN, "init_from=run", "hydra.run.dir=other").code == 0
    assert facts("other")["prepared"]["vocabulary"] == known


def test_a_damaged_record_is_refused(fedsim, monkeypatch):
    forecast(fedsim)
    from fedsim.runs import saved_model

    read = saved_model.read_run_facts
    for wrong in ([], {"features": 3}, {"features": [{"name": "x", "shift": "a", "scale": 1}]}, {"labels": [1]},
                  {"features": [{"name": "x", "shift": 0, "scale": 0}]}, {"secret": 1}):  # fmt: skip
        monkeypatch.setattr(saved_model, "read_run_facts", lambda path, wrong=wrong: read(path) | {"prepared": wrong})
        answer = fedsim("evaluate", "run")
        assert answer.code == 2
        assert "its record of how the data were prepared cannot be read" in answer.err


def test_words_and_missing_values(fedsim):
    """A later file gets the model's features, whatever words it has and wherever it has gaps.

    Its rows of x are missing where the first file has them all; y is complete where the first file has holes; it has
    the word snow, which the model does not know, and no sun.
    """
    rng = np.random.default_rng(1)
    n = 120
    sky = np.array(["sun", "rain"])[rng.integers(0, 2, n)]
    first = pd.DataFrame({"sky": sky, "x": rng.standard_normal(n), "y": rng.standard_normal(n)})
    later = first.assign(sky=np.where(sky == "sun", "snow", "rain"))
    first.loc[5::7, "y"] = np.nan
    later.loc[3::11, "x"] = np.nan
    first.to_csv("first.csv", index=False)
    later.to_csv("later.csv", index=False)
    settings = ("data=csv", "data.window=4", "data.categories=[sky]", "data.missing=mask", "num_clients=1")
    settings += ("data.target_column=x", *RUN, "client.optimizer.lr=0.05")
    assert fedsim("run", *settings, "data.path=first.csv", "hydra.run.dir=run").code == 0
    names = [column["name"] for column in facts("run")["prepared"]["features"]]
    assert names == ["x", "y", "sky=rain", "sky=sun", "y_seen", "y_since"]
    answer = fedsim("evaluate", "run", "data.path=later.csv")
    assert answer.code == 0, answer
    assert f"{int((sky == 'sun').sum())} cells hold words that the model does not know: 'snow'" in answer.err
    assert "missing values of 'x', of which the model's data had none" in answer.err


def test_sequences(fedsim):
    """Labels and scales of whole sequences are the model's too."""
    rng = np.random.default_rng(2)
    lines = []
    for k in range(20):
        level = k % 2
        lines += [f"{k},{'ill' if level else 'well'},{level + 0.1 * rng.standard_normal():.4f}" for _ in range(5)]
    Path("first.csv").write_text("patient,state,pulse\n" + "\n".join(lines) + "\n")
    settings = ("data=csv", "data.path=first.csv", "data.sequence_column=patient", "data.task=classification")
    settings += ("data.target_column=state", "num_clients=2", "partition=iid", *RUN, "rounds=10")
    assert fedsim("run", *settings, "hydra.run.dir=run").code == 0
    good = scores(fedsim("evaluate", "run"))["test_accuracy"]
    assert good == 1
    Path("later.csv").write_text(Path("first.csv").read_text().replace("well", "fine"))
    assert "labels that the model does not know: 'fine'" in fedsim("evaluate", "run", "data.path=later.csv").err
