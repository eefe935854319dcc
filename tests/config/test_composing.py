"""The cache of merged configs: the same configs as Hydra's own, and never an outdated one."""

import pickle

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fedsim.config import compose as config
from fedsim.config import composed_cache as composing
from fedsim.config.composed_cache import Cache, MergingOnce
from fedsim.errors import UserError

OVERRIDES = [
    (),
    ("seed=1", "rounds=3"),
    ("model=rnn", "model.hidden_size=3"),
    ("model.hidden_size=3", "model=rnn"),
    ("model=rnn", "model=lstm"),
    ("client/optimizer=adam", "client.optimizer.lr=0.1", "client.epochs=null", "client.steps=3"),
    ("privacy=central_dp", "privacy.target_epsilon=8", "~privacy.noise_multiplier"),
    ("aggregator=fedadam", "aggregator/combine=mean", "aggregator.server_optimizer.tau=0.01"),
    ("experiment=gru_regression", "tags=[a,b]", "+eval={every: 2}"),
    ("hydra.sweep.subdir=a", "hydra.run.dir=x/${seed}", "name='a=b,c'", "name=last"),
    ("hydra.mode=MULTIRUN", "seed=2"),
]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(composing, "_FILES", Cache(500))
    monkeypatch.setattr(composing, "_MERGED", Cache(100))


def composed(kind, overrides, config_dir=None):
    made = config.make_loader(config_dir)
    loader = kind(made.config_search_path)
    return loader.load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)


def flags(node, path=""):
    """Everything in a config that its YAML does not show."""
    own = {path: (dict(node._metadata.flags or {}), node._metadata.ref_type, node._metadata.object_type)}
    children = node._content.items() if isinstance(node, DictConfig) and isinstance(node._content, dict) else ()
    return own | {k: v for key, child in children for k, v in flags(child, f"{path}.{key}").items()}


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_the_same_as_hydras_own(overrides):
    wanted = composed(ConfigLoaderImpl, overrides)
    for _ in range(2):  # read from files, and from the cache
        found = composed(MergingOnce, overrides)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)
        assert flags(found) == flags(wanted)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=no",),
        ("rounds.x=1",),
        ("nothing=1",),
        ("~nothing",),
        ("+rounds=3",),
        ("model@here=rnn",),
        ("seed=1,2",),
        ("seed=[",),
        ("model=null",),
        ("++model=rnn",),
    ],
)
def test_the_same_errors(overrides):
    messages = []
    for kind in (ConfigLoaderImpl, MergingOnce, MergingOnce):
        with pytest.raises((HydraException, ValueError)) as raised:
            composed(kind, overrides)
        messages.append((type(raised.value), str(raised.value)))
    assert messages[0] == messages[1] == messages[2]


def test_files_are_merged_once_for_jobs_with_the_same_options(monkeypatch):
    merged = []
    merge = ConfigLoaderImpl._compose_config_from_defaults_list
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "_compose_config_from_defaults_list",
        lambda self, defaults, repo: merged.append(1) or merge(self, defaults, repo),
    )
    request = config.Request(("data=synthetic", "model=rnn,gru", "seed=range(0,10)"), multirun=True)
    assert len(config.check_request(request)) == 20
    assert len(merged) == 3  # once for the sweep itself, without a model; once for rnn; once for gru


def test_a_job_cannot_change_the_cache():
    first = composed(MergingOnce, ("model=rnn",))
    untouched = OmegaConf.to_yaml(first)
    first.model.hidden_size = 999
    first.hydra.sweep.dir = "elsewhere"
    assert OmegaConf.to_yaml(composed(MergingOnce, ("model=rnn",))) == untouched


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    for size in (3, 4):
        file.write_text(f"_target_: fedsim.models.gru.GRU\nhidden_size: {size}\n")
        assert composed(MergingOnce, ("model=mine",), str(tmp_path)).model.hidden_size == size
    file.unlink()
    with pytest.raises(HydraException):
        composed(MergingOnce, ("model=mine",), str(tmp_path))


def test_two_folders_with_the_same_names(tmp_path):
    for size in (3, 4):
        file = tmp_path / str(size) / "model" / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"_target_: fedsim.models.gru.GRU\nhidden_size: {size}\n")
    sizes = [composed(MergingOnce, ("model=mine",), str(tmp_path / str(n))).model.hidden_size for n in (3, 4, 3)]
    assert sizes == [3, 4, 3]


def test_cached_configs_are_checked_too(tmp_path):
    """A file that changes settings of Hydra is refused for every job, not only when it is read."""
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nhydra: {job: {env_set: {A: b}}}\n")
    loader = config.make_loader(str(tmp_path))
    for seed in (1, 2):
        with pytest.raises(UserError, match=r"hydra\.job\.env_set"):
            loader.load_configuration("config", ["model=mine", f"seed={seed}"], RunMode.RUN)


def test_a_loader_works_in_another_process(tmp_path):
    loader = config.make_loader(str(tmp_path))
    loader.load_configuration("config", ["seed=1"], RunMode.RUN)
    other = pickle.loads(pickle.dumps(loader))  # noqa: S301 - as Hydra's launchers do
    assert other.load_configuration("config", ["seed=2"], RunMode.RUN).seed == 2


def test_memory_drops_the_least_recently_used_value():
    made = []
    memory = Cache(2)
    for key in "abacab":
        memory.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"]
