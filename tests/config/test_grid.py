"""The jobs of a sweep: which override counts where a key is given twice, and how many jobs there are."""

import time

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fedsim.config import compose as config
from fedsim.config.grid import MAX_JOBS, combinations, filled, in_force, samples
from fedsim.config.loader import make_loader
from fedsim.errors import UserError


def read(*texts):
    return OverridesParser.create(make_loader(None)).parse_overrides(list(texts))


def jobs(*texts):
    return combinations(read(*texts), config.list_options())


def test_every_combination_in_hydras_order():
    found = jobs("model=rnn,gru", "rounds=3", "seed=range(1,3)")
    assert found == [[f"model={model}", "rounds=3", f"seed={seed}"] for model in ("rnn", "gru") for seed in (1, 2)]


def test_an_option_and_the_mappings_of_its_group_all_count():
    assert jobs("model=lstm", "model={hidden_size:8}", "model={num_layers:2}") == [
        ["model=lstm", "model={hidden_size:8}", "model={num_layers:2}"]
    ]
    assert jobs("model=lstm,gru", "model={bias:false}") == [
        ["model=lstm", "model={bias:false}"],
        ["model=gru", "model={bias:false}"],
    ]


@pytest.mark.parametrize(
    "texts", [("seed=1,2", "seed=3,4"), ("seed=9", "seed=3,4"), ("seed=1,2,5", "seed=choice(3,4)")]
)
def test_the_last_override_of_a_value_counts(texts):
    assert [job[-1] for job in jobs(*texts)] == ["seed=3", "seed=4"]


def test_a_swept_mapping_is_not_replaced_by_a_later_option():
    assert len(jobs("model={hidden_size:8},{hidden_size:4}", "model=lstm")) == 2


SIZES = {
    "seed=range(1,1e9)": "makes more than 10,000 jobs",
    "seed=range(1,1000000000)": "makes more than 10,000 jobs",
    f"seed=range(1,{'9' * 320})": "makes more than 10,000 jobs",
    f"seed=range(1,{'9' * 320},0.5)": "makes more than 10,000 jobs",
    "seed=range(-1e300,1e300,1e-300)": "makes more than 10,000 jobs",
    "seed=range(1e300,-1e300,-1e-300)": "makes more than 10,000 jobs",
    "seed=shuffle(range(1,1e9))": "makes more than 10,000 jobs",
    "seed=range(1,inf)": "a range needs finite numbers",
    "seed=range(1,nan)": "a range needs finite numbers",
    "seed=range(1,9,0)": "the step of a range must not be 0",
    "seed=range(1,9,0.0)": "the step of a range must not be 0",
    "seed=range(9,1)": "holds no value",
    "seed=range(1,9,-1)": "holds no value",
    "model=glob(zz*)": "matches no option; available: cifg, gru, ",
    "model.hidden_size=glob(*)": "glob chooses among the options of a group, and model.hidden_size is a value",
}


@pytest.mark.parametrize("text", SIZES)
def test_a_sweep_without_values_or_end_is_refused_at_once(text):
    started = time.monotonic()
    with pytest.raises(UserError) as refusal:
        jobs(text)
    assert str(refusal.value).startswith(f"{text}: {SIZES[text]}")
    assert time.monotonic() - started < 5


def test_the_product_counts():
    assert len(jobs("seed=range(0,100)", "rounds=range(1,101)")) == MAX_JOBS == 10_000
    with pytest.raises(UserError, match=r"^seed=range\(0,100\) rounds=range\(1,102\): makes more than 10,000 jobs"):
        jobs("seed=range(0,100)", "rounds=range(1,102)")


@pytest.mark.parametrize(
    ("text", "count"),
    [("range(0,10,3)", 4), ("range(10,0,-3)", 4), ("range(0,1,0.25)", 4), ("range(1,0,-0.3)", 4), ("range(0,9,3)", 3)],
)
def test_ranges_are_counted_as_they_are_listed(text, count):
    assert len(jobs(f"seed={text}")) == count == len(list(read(f"seed={text}")[0].sweep_string_iterator()))
    with pytest.raises(UserError):  # the count is what limits, so it must not be too small
        jobs(f"seed={text}", f"rounds=range(0,{MAX_JOBS // count + 1})")


def test_glob_lists_the_options_of_a_group():
    assert jobs("model=glob(gru*)") == [["model=gru"], ["model=gru_reset_before"]]


def test_samples_cover_every_value():
    options = config.list_options()
    assert samples(read("model=rnn,gru", "rounds=2", "client.optimizer.lr=interval(0.1,1)"), options) == [
        ["model=rnn", "rounds=2", "client.optimizer.lr=0.1"],
        ["model=gru", "rounds=2", "client.optimizer.lr=0.1"],
        ["model=rnn", "rounds=2", "client.optimizer.lr=1.0"],
    ]
    with pytest.raises(UserError, match="more than 10,000 values to choose from"):
        samples(read("seed=range(1,1e9)"), options)


def test_a_trial_repeats_all_overrides_with_the_values_chosen():
    template = in_force(read("model=lstm,gru", "model={hidden_size:8}", "model={num_layers:2}", "seed=1,2", "name=a"))
    assert filled(template, ["x.y=3", "seed=2", "model=gru", "name=a"]) == [
        *("x.y=3", "model=gru", "model={hidden_size:8}", "model={num_layers:2}", "seed=2", "name=a")
    ]
