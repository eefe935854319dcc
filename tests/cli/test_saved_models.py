"""`fedsim export`, `fedsim evaluate` and `init_from`: using the model that a run saved."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsim.extras import install_hint
from fedsim.runs.checkpoints import load_checkpoint


def rows(directory):
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def scores(text):
    return {name: float(value) for name, value in (line.split() for line in text.splitlines()[1:])}


def saved(directory, number):
    path = directory / "checkpoints" / f"round_{number:06d}.safetensors"
    return load_checkpoint(path, torch.device("cpu"))


@pytest.mark.parametrize("model", ["rnn", "lstm", "cifg", "gru", "gru_reset_before"])
def test_a_state_dict_holds_the_last_model(fedsim, run_directory, model):
    directory = run_directory(f"model={model}")
    answer = fedsim("export", "run")
    assert (answer.code, answer.err) == (0, "")
    parameters = load_file(directory / "export" / "model.safetensors")
    facts = json.loads((directory / "export" / "model.json").read_text())
    assert (facts["cell"], facts["hidden_size"], facts["input_size"]) == (model.replace("rnn", "rnn_tanh"), 2, 2)
    assert set(parameters) >= {"recurrent.weight_ih_l0", "head.weight", "head.bias"}
    more = 2 * (2 + 2 + 2) if model == "cifg" else 0  # two input gates of nn.LSTM: of inputs, states, and two biases
    assert sum(value.numel() for value in parameters.values()) == saved(directory, 2).row.numel() + more
    loss = f"{float(rows(directory)[-1]['test_loss']):.4f}"
    assert answer.out.count(loss) == 2  # before and after
    assert ("torch.nn has no" in answer.out) == (model == "gru_reset_before")


def test_the_best_model_is_that_of_the_best_round(fedsim, run_directory):
    directory = run_directory("rounds=5", "checkpoint.every=1", "stop.metric=test_loss", "stop.mode=max")
    losses = {int(row["round"]): float(row["test_loss"]) for row in rows(directory)[1:]}
    best = max(losses, key=losses.get)
    assert best == 1  # the run learns, and this is not one of the last two, which are kept in any case
    answer = fedsim("evaluate", "run", "--checkpoint", "best")
    assert answer.out.splitlines()[0].startswith(f"round {best}, ")
    assert scores(answer.out)["test_loss"] == pytest.approx(losses[best], rel=1e-5)


def test_existing_files_are_not_overwritten(run_directory, fedsim, refused):
    run_directory()
    assert fedsim("export", "run", "--out", "new").code == 0
    assert refused("export", "run", "--out", "new").endswith("already holds model.safetensors; choose another folder, "
                                                             "or delete it")  # fmt: skip
    assert fedsim("export", "run", "--out", "new", "--prune", "0.5").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onxn"), "--to onxn: must be one of torch, exported, onnx, int8 (did you mean 'onnx'?)"),
        (("--prune", "0"), "--prune 0: must be above 0 and below 1, a share of the weights"),
        (("--prune", "nan"), "--prune nan: must be above 0 and below 1, a share of the weights"),
        (("--prune", "50"), "--prune 50: must be above 0 and below 1, a share of the weights"),
        (("--checkpoint", "first"), "--checkpoint first: must be last or best"),
    ],
)
def test_invalid_values_of_export_are_refused(run_directory, refused, arguments, message):
    run_directory()
    assert refused("export", "run", *arguments) == message


def test_without_the_extra_it_says_how_to_install_it(run_directory, refused, monkeypatch):
    run_directory()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused("export", "run", "--to", "onnx")
    assert line == f"--to onnx: needs onnx and onnxruntime; {install_hint('onnx')}"


def test_parameters_and_operations_below_the_table(run_directory, fedsim):
    """A GRU of 2 on 2 features for 5 classes has 12 + 12 + 10 weights and 6 + 6 + 5 biases; half of the 34 go."""
    run_directory()
    last = "51 parameters; 24 multiply-accumulates per time step and 10 per sequence"
    assert fedsim("export", "run").out.splitlines()[-1] == last
    last = "51 parameters, 34 of them not zero; 24 multiply-accumulates per time step and 10 per sequence, zeros too"
    assert fedsim("export", "run", "--prune", "0.5").out.splitlines()[-1] == last


def test_a_model_sized_by_its_number_of_parameters(run_directory, fedsim):
    """A hidden size of 4, see `test_runs.py`."""
    wanted = ("model.parameters=110", "model.hidden_size=null")
    directory = run_directory(*wanted)
    assert fedsim("export", "run").code == 0
    facts = json.loads((directory / "export" / "model.json").read_text())
    assert facts["hidden_size"] == 4
    last = rows(directory)[-1]
    found = scores(fedsim("evaluate", "run").out)
    assert found == pytest.approx({name: float(last[name]) for name in found}, rel=1e-5)
    assert fedsim("evaluate", "run", "seed=5", "data.clients=2").code == 0
    again = run_directory(*wanted, "init_from=run", name="again")
    sized = run_directory("model.hidden_size=4", "init_from=run", name="sized")
    assert rows(again)[0]["test_loss"] == rows(sized)[0]["test_loss"] == last["test_loss"]
    assert fedsim("resume", "run", "rounds=3").code == 0
    assert len(rows(directory)) == 4


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_run_without_a_model_is_refused(run_directory, refused, elsewhere, command):
    assert refused(command, "nowhere") == "nowhere: holds no run (there is no config.yaml)"
    run_directory("checkpoint=none")
    assert refused(command, "run") == "run: holds no saved model (there is no usable checkpoint)"


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_onnx_and_int8(fedsim, run_directory, model):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    directory = run_directory(f"model={model}", "model.hidden_size=32")
    answer = fedsim("export", "run", "--to", "onnx", "--to", "int8")
    assert (answer.code, answer.err) == (0, "")
    sizes = {path.name: path.stat().st_size for path in (directory / "export").iterdir()}
    assert set(sizes) == {"model.onnx", "model.int8.onnx"}
    assert answer.out.count(f"{float(rows(directory)[-1]['test_loss']):.4f}") >= 2
    # 4 bytes a weight become 1 where onnxruntime quantises the cell
    assert (sizes["model.int8.onnx"] < 0.5 * sizes["model.onnx"]) == (model == "lstm")
    assert ("quantises no GRU" in answer.out) == (model == "gru")


def test_evaluate_gives_what_the_run_recorded(fedsim, run_directory):
    directory = run_directory()
    last = rows(directory)[-1]
    answer = fedsim("evaluate", "run")
    assert (answer.code, answer.err) == (0, "")
    assert scores(answer.out) == pytest.approx({name: float(last[name]) for name in scores(answer.out)}, rel=1e-5)
    assert set(scores(answer.out)) == {name for name in last if name.startswith("test_")}


@pytest.mark.parametrize("option", ["baseline=local", "personalize=finetune", "aggregator.blocks=[recurrent]"])
def test_evaluate_uses_what_clients_keep(fedsim, run_directory, refused, option):
    directory = run_directory(option)
    last = rows(directory)[-1]
    answer = fedsim("evaluate", "run")
    assert scores(answer.out) == pytest.approx({name: float(last[name]) for name in scores(answer.out)}, rel=1e-5)
    assert ("personal_loss" in answer.out) == (option == "personalize=finetune")
    if option != "personalize=finetune":
        assert "holds no whole model" in refused("evaluate", "run", "seed=1")
        assert "holds no whole model" in refused("export", "run")


def test_evaluate_on_other_data(fedsim, run_directory, refused):
    run_directory("sampler.fraction=null", "sampler.cohort_size=3")
    own = fedsim("evaluate", "run").out
    other = fedsim("evaluate", "run", "seed=5", "data.clients=2")  # fewer than the cohort
    assert other.code == 0
    assert scores(other.out).keys() == scores(own).keys()
    assert scores(other.out) != scores(own)
    assert refused("evaluate", "run", "data.features=3").endswith(
        "the saved model has recurrent.weight_ih_l0 of 6 x 2, the one it is wanted for recurrent.weight_ih_l0 of 6 x 3"
    )
    assert refused("evaluate", "run", "rounds=9").startswith("rounds: has no effect on a saved model's score")


def test_a_run_starts_from_a_model(run_directory):
    first = run_directory("checkpoint.every=1")
    second = run_directory("init_from=run", name="second")
    third = run_directory("init_from=run/checkpoints/round_000001.safetensors", name="third")
    assert rows(second)[0]["test_loss"] == rows(first)[2]["test_loss"]
    assert rows(third)[0]["test_loss"] == rows(first)[1]["test_loss"]
    assert rows(second)[0]["bytes_up"] == "0"


def test_a_run_starts_from_a_plain_state_dict(fedsim, run_directory, refused, tiny, elsewhere):
    """What `fedsim export` or ``save_file(module.state_dict(), ...)`` writes is the model; misfits are named."""
    first = run_directory()
    assert fedsim("export", "run", "--to", "torch").code == 0
    exported = run_directory("init_from=run/export/model.safetensors", name="exported")
    assert rows(exported)[0]["test_loss"] == rows(first)[-1]["test_loss"]
    state = load_file(first / "export" / "model.safetensors")
    halved = {name: value / 2 for name, value in state.items()}
    save_file(halved, "half.safetensors")  # no metadata at all
    run_directory("init_from=half.safetensors", "checkpoint.every=1", "rounds=1", name="half")
    assert rows(elsewhere / "half")[0]["test_loss"] != rows(first)[-1]["test_loss"]
    name = next(iter(state))
    for tensors, message in (
        ({k: v for k, v in state.items() if k != name}, f"missing ['{name}'], unknown []"),
        (state | {"more": torch.zeros(1)}, "missing [], unknown ['more']"),
        (state | {name: torch.zeros(1, 2)}, f"{name} has shape (1, 2), expected"),
        (state | {name: state[name] * float("nan")}, "holds numbers that are not finite"),
        ({k: v.half() for k, v in state.items()}, "must be float32 or float64"),
    ):
        save_file(tensors, "bad.safetensors")
        assert message in refused("run", *tiny, "init_from=bad.safetensors")
    torch.save(state, "model.pt")
    assert "files of torch.save can run code" in refused("run", *tiny, "init_from=model.pt")


def test_a_run_from_a_model_is_resumed_without_it(fedsim, run_directory, tiny):
    first = run_directory()
    whole = run_directory("init_from=run", "rounds=3", name="whole")
    part = run_directory("init_from=run", name="part")
    first.rename(first.with_name("gone"))
    answer = fedsim("resume", "part", "rounds=3")
    assert answer.code == 0, answer
    assert (part / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert "init_from" in fedsim("resume", "part", "init_from=whole", "rounds=4").err


def test_a_model_that_does_not_fit_is_refused(run_directory, refused, tiny, elsewhere):
    run_directory()
    new = ("run", *tiny, "hydra.run.dir=new")
    assert "the saved model's cell is gru, the one it is wanted for lstm" in refused(
        *new, "model=lstm", "init_from=run"
    )
    assert "cell is gru, the one it is wanted for gru_reset_before" in refused(
        *new, "model=gru_reset_before", "init_from=run"
    )
    assert "cell is gru, the one it is wanted for gru with mean of its states" in refused(
        *new, "model.pooling=mean", "init_from=run"
    )
    assert "the saved model has no recurrent.weight_ih_l1" in refused(
        *new, "model.num_layers=2", "init_from=run"
    ).replace("head.weight", "")
    assert refused(*new, "init_from=nowhere") == (
        "init_from=nowhere: nowhere: there is no such run directory or checkpoint"
    )
    save_file({"row": torch.zeros(3)}, elsewhere / "foreign.safetensors")
    assert "is not a fedsim checkpoint" in refused(*new, "init_from=foreign.safetensors")


def test_if_the_last_checkpoint_is_broken_the_one_before_is_used(fedsim, run_directory):
    directory = run_directory("checkpoint.every=1")
    (directory / "checkpoints" / "round_000002.safetensors").write_bytes(b"half")
    answer = fedsim("evaluate", "run")
    assert answer.out.startswith("round 1, ")
    assert answer.err.startswith("warning: run/checkpoints/round_000002.safetensors: cannot be read as a checkpoint")


# ---------------------------------------------------------------------------------------------------------------------
# what the model of init_from has spent

PRIVATE = ("privacy=central_dp", "aggregator=mean")


def privacy_of(directory):
    return json.loads((directory / "summary.json").read_text())["privacy"]


def test_what_was_spent_on_the_same_clients_is_carried_on(fedsim, run_directory, tiny):
    """Two rounds, and two more of the same mechanism from their model, have spent what four rounds have."""
    pytest.importorskip("dp_accounting")
    first, whole = run_directory(*PRIVATE), run_directory(*PRIVATE, "rounds=4", name="whole")
    second = run_directory(*PRIVATE, "init_from=run", "privacy.noise_stream=1", name="second")
    assert rows(second)[0]["epsilon"] == rows(first)[-1]["epsilon"]
    assert float(rows(second)[-1]["epsilon"]) == pytest.approx(float(rows(whole)[-1]["epsilon"]), rel=1e-9)
    assert privacy_of(second)["epsilon_before"] == privacy_of(first)["epsilon"] > 0
    assert privacy_of(second)["warnings"] == []
    for stream in (0, 1):
        again = fedsim("run", *tiny, *PRIVATE, "init_from=second", f"privacy.noise_stream={stream}")
        assert again.err.startswith(f"error: init_from=second: privacy.noise_stream={stream}: with seed=0 that is the")
    third = run_directory(*PRIVATE, "init_from=second", "privacy.noise_stream=2", "rounds=1", name="third")
    assert len(privacy_of(third)["spent"]) == 3
    for name in ("run", "second"):
        Path(name).rename(f"{name} is gone")
    assert fedsim("resume", "third", "rounds=2").code == 0
    assert rows(third)[0]["epsilon"] == rows(second.with_name("second is gone"))[-1]["epsilon"]
    assert len(privacy_of(third)["spent"]) == 3
    assert float(rows(third)[2]["epsilon"]) > float(rows(third)[1]["epsilon"])


def test_a_model_without_privacy_is_warned_of(fedsim, run_directory):
    pytest.importorskip("dp_accounting")
    run_directory()
    second = run_directory(*PRIVATE, "init_from=run", name="second")
    (warning,) = privacy_of(second)["warnings"]
    assert warning.startswith("init_from=run: that model was trained without differential privacy; epsilon leaves out")
    third = run_directory(*PRIVATE, "init_from=second", "privacy.noise_stream=1", name="third")
    assert privacy_of(third)["warnings"] == [warning]  # what its training has left out, it still leaves out
    assert privacy_of(third)["epsilon_before"] == privacy_of(second)["epsilon"]


def test_other_clients_are_warned_of(run_directory):
    pytest.importorskip("dp_accounting")
    run_directory(*PRIVATE)
    others = run_directory(*PRIVATE, "init_from=run", "data.clients=5", name="others")
    (warning,) = privacy_of(others)["warnings"]
    assert warning.startswith("init_from=run: that model's clients are taken to be others; if they are not")
    assert rows(others)[0]["epsilon"] == "0.0"
