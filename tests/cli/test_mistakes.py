"""Every mistake of a user gives one line that names the key, the value and what is allowed, and writes nothing."""

import pytest
import torch

MISSPELT = {
    "modle=gru": "modle=gru: no such key (did you mean 'model'?)",
    "model=gruu": "model=gruu: no such option (did you mean 'gru'?); available: cifg, gru, ",
    "model=null": "model=null: no such option; available: cifg, gru, ",
    "model=": "model=: no such option; available: cifg, gru, ",
    "model=[gru,lstm]": "model=[gru,lstm]: choose one option; -m model=A,B runs each of several",
    "model={hidden_sice:5}": "model={hidden_sice:5}",
    "+model=lstm": "+model=lstm: model already has an option; to choose another, write model=lstm",
    "model@data=lstm": "model@data",
    "~model": "model: is missing; choose an option with model=OPTION",
    "experiment=gru_regresion": "experiment=gru_regresion: no such option (did you mean 'gru_regression'?)",
    "client/optimiser=adam": "client/optimiser=adam: no such key (did you mean 'client/optimizer'?)",
    "model.hiden_size=3": "model.hiden_size=3: no such key (did you mean 'model.hidden_size'?)",
    "aggregator.combine=mean": "aggregator.combine=mean: did you mean aggregator/combine=mean?",
    "client.optimizer=adam": "client.optimizer=adam: did you mean client/optimizer=adam?",
    "foo=1": "foo=1: no such key",
    "+foo=1": "foo=1: no such key; known: model, data,",
    "+model.foo=1": "model.foo=1: no such key; known: hidden_size, parameters, num_layers,",
    "+model@foo=lstm": "foo={'_target_'",
    "~eval.evry": "~eval.evry: no such key (did you mean 'eval.every'?)",
    "model.hidden_size=1e3": "model.hidden_size=1000.0: must be a whole number",
    "seed=-1": "seed=-1: must be from 0 to 9223372036854775807",
    "client.optimizer.lr=nan": "client.optimizer.lr=nan: must be greater than 0",
    "tags={a:b}": "tags={a:b}: tags: Cannot merge",
    "eval=3": "eval=3: is not a value but a group of keys: eval.every",
}


@pytest.mark.parametrize("override", MISSPELT)
def test_misspelt_groups_options_and_keys(refused, override):
    assert MISSPELT[override] in refused("run", override)


PAIRS = {
    "data=text": "data.path=null: name a text file or a folder of text files",
    "data=cmapss": "data.path=null: name the folder with train_FD001.txt",
    "data=cmapss data.path=nowhere": "data.path=nowhere: there is no file nowhere/train_FD001.txt",
    "data=leaf": "data.path=null: name the folder that holds LEAF's train and test folders",
    "data=leaf data.path=nowhere data.kind=sent": "data.kind=sent: must be one of shakespeare, sent140, synthetic",
    "data=shakespeare data.stride=3": "data.stride=3: has an effect only with form=last",
    "data=har data.path=nowhere": "data.path=nowhere: there is no file or folder nowhere",
    "data=ucr data.path=.": "data.path=.: there is no file BasicMotions_TRAIN.ts",
    "data=text data.path=nowhere.txt": "data.path=nowhere.txt: there is no file or folder",
    "data=csv": "data.path=null: name a CSV or Parquet file, a folder of them or a glob",
    "data=csv data.path=a.csv": "data.target_column=null: name the column",
    "data=csv data.path=nowhere.csv data.target_column=y": "data.path=nowhere.csv: there is no such file",
    "data=csv data.path=a.csv data.target_column=3.5": "data.path=a.csv: there is no such file",
    "data=csv data.path=a.csv data.target_column={a:b}": "must be a word or a list, each entry a word or null",
    "experiment=energy_forecast": "data.path=null: ",
    "data=synthetic data.task=regression aggregator.combine.by=accuracy client.validation_fraction=0.2": (
        "aggregator.combine.by=accuracy: a regression has no accuracy"
    ),
    "aggregator.combine.by=loss": "set client.validation_fraction",
    "aggregator.combine.by=accuracy": "set client.validation_fraction",
    "model.dropout=0.5": "model.dropout=0.5: acts between layers and needs num_layers of 2 or more",
    "client.optimizer.nesterov=true": "client.optimizer.nesterov=true: needs momentum greater than 0",
    "data=synthetic model.embedding_size=4": "model.embedding_size=4: has no effect",
    "data=synthetic sampler.cohort_size=100": "sampler.cohort_size=100: there are only 10 clients",
    "data=synthetic stop.metric=test_acuracy": "(did you mean 'test_accuracy'?)",
    "data=synthetic stop.metric=round": "stop.metric=round: this run records",
    "data=synthetic num_clients=1001": "num_clients=1001: that many clients need 1001 training samples",
    "data=synthetic partition=natural num_clients=11": "num_clients=11: must be 1 to 10, the natural clients of",
    "client.epochs=1 client.steps=2": "epochs=1 and steps=2 are both set",
    "client.epochs=null": "client.epochs=null: set exactly one of epochs and steps (neither is set)",
    "sampler.fraction=0.5 sampler.cohort_size=2": "fraction=0.5 and cohort_size=2 are both set",
    "partition=natural": "partition=natural: in japanese_vowels the label is the speaker",
    "data=synthetic data.task=regression partition=shards": "partition=shards: ",
    "data=synthetic data.task=regression stop.metric=test_accuracy": "stop.metric=test_accuracy: this run records",
    "data=synthetic data.samples_per_client=1 partition=natural client.validation_fraction=0.5": (
        "client.validation_fraction=0.5: "
    ),
    "data=synthetic aggregator=krum aggregator.combine.f=4": "aggregator.combine.f=4: krum needs at least 2f + 3 = 11",
    "data=synthetic aggregator=krum sampler.fraction=0.4": "in every round, and the sampler may give 4",
    "data=synthetic aggregator=multi_krum aggregator.combine.f=0": "f=0 and m=null choose all 10 clients",
    "data=synthetic aggregator=bulyan num_clients=6": "bulyan needs at least 4f + 3 = 7 clients",
    "data=synthetic aggregator=trimmed_mean num_clients=9": "beta=0.1: leaves out nobody of 9 client(s)",
    "data=synthetic aggregator=trimmed_mean aggregator.combine.beta=0.5": "aggregator.combine.beta=0.5: must be below",
    "data=synthetic aggregator=fednova client/optimizer=adam": "client/optimizer=adam: aggregator/combine=fednova",
    "data=synthetic aggregator=qffedavg client/optimizer=adamw": "client/optimizer=adamw: aggregator/combine=qffl",
    "data=synthetic aggregator=fednova aggregator/correction=scaffold": (
        "aggregator/correction=scaffold: aggregator/combine=fednova knows the coefficients"
    ),
    "data=synthetic attack=scale stop.metric=malicious": "stop.metric=malicious: neither end is the better one; set",
    "data=synthetic aggregator=fednova client.keep_optimizer_state=true": "client.keep_optimizer_state=true: ",
    "data=synthetic aggregator.combine.power=0": "aggregator.combine.power=0.0: must be a number other than 0",
    "data=synthetic aggregator=krum sampler=poisson": "in every round, and the sampler may give 1",
    "data=synthetic sampler=weighted sampler.fraction=1": "sampler=weighted: chooses nothing where all 10 client(s)",
    "data=synthetic sampler=power_of_choice sampler.candidates=5": "sampler.candidates=5: must be more than the 5",
    "data=synthetic sampler=availability sampler.turn_on=0": "sampler.turn_on=0.0: must be greater than 0",
    "data=synthetic rounds=1 aggregator/server_optimizer/schedule=cosine": "Cosine changes nothing in rounds=1",
    "experiment=gru_regression aggregator=fedsgd": "client.epochs=5: client=full_batch (which aggregator=fedsgd",
    "data=synthetic link/up=topk link.up.fraction=1": "link.up.fraction=1.0: must be at least 0 and below 1",
    "data=synthetic link.up=topk": "did you mean link/up=topk?",
    "data=synthetic link/down=sign aggregator=local": "aggregator.blocks=[]: nothing is sent",
    "data=synthetic attack=scale attack.clients=[10]": "attack.clients=[10]: there are clients 0 to 9",
    "data=synthetic attack=scale attack.clients=[1] attack.fraction=0.2": "fraction=0.2 and clients=[1] are both set",
    "data=synthetic attack=alie": "attack.z=null: the paper's z_max is 0 where 2 of 10 clients attack",
    "data=synthetic attack=backdoor data.task=regression": "attack=backdoor: needs labels of whole sequences",
    "data=synthetic privacy=central_dp": "which aggregator/combine=weighted is not; take aggregator/combine=mean",
    "data=synthetic privacy=local_dp privacy.delta=1": "privacy.delta=1.0: must be at least 0 and below 1",
    "data=synthetic privacy=secure_aggregation aggregator=krum": "from which aggregator/combine=krum cannot be made",
    "data=synthetic privacy=secure_aggregation aggregator.combine.by=loss client.validation_fraction=0.2": "by=loss",
    "data=synthetic privacy=secure_aggregation privacy.neighbours=3": "privacy.neighbours=3: must be even",
    "data=synthetic model.hidden_size=1000000": "model.hidden_size=1000000: training would take about",
}


@pytest.mark.parametrize("overrides", PAIRS)
def test_incompatible_settings(refused, overrides):
    assert PAIRS[overrides] in refused("run", *overrides.split())


def test_a_binary_file_is_not_text(refused, elsewhere):
    (elsewhere / "play.txt").write_bytes(bytes(range(256)))
    assert refused("run", "data=text", "data.path=play.txt").startswith("data.path=play.txt: ")


def test_a_malformed_csv(refused, elsewhere, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere.parent / "cache"))
    (elsewhere / "load.csv").write_text("time,kW\n1,0.5\n2,much\n")
    csv = ("data=csv", "data.path=load.csv", "data.target_column=kW")
    assert refused("run", *csv) == "data.path=load.csv: load.csv, line 3, column 'kW': 'much' is not a number"
    assert "(did you mean 'kW'?)" in refused("run", *csv[:2], "data.target_column=kw")
    assert "task=classification has one column of labels" in refused(
        "run", *csv[:2], "data.target_column=[a,b]", "data.task=classification"
    )


def test_an_empty_folder_is_not_a_text(refused, elsewhere):
    (elsewhere / "plays").mkdir()
    assert refused("run", "data=text", "data.path=plays").startswith("data.path=plays: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
@pytest.mark.parametrize("kernels", ["auto", "torch", "numba"])
def test_cuda_on_a_machine_without_it(refused, tiny, kernels):
    assert "device=cuda: no CUDA device" in refused("run", *tiny, "device=cuda", f"engine.kernels={kernels}")


def test_numba_on_a_gpu(refused, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("fedsim.federation.prepare.to_device", lambda population, device: population)
    line = refused("run", *tiny, "device=cuda", "engine.kernels=numba")
    assert "kernels=numba: runs on a CPU only" in line


MALFORMED = (
    *(
        "=3",
        "=",
        "model",
        "model=[gru",
        "model=gru]",
        "seed={",
        "seed=(1",
        "seed='1",
        "a b",
        "",
        " ",
        "-x=3",
        "model==gru=",
    ),
    *(
        "name=${",
        "name=${a",
        "a..b=3",
        ".a=3",
        "a.=3",
        "1a==",
        "name=héllo",
        "name=a\nb",
        "\udcff=3",
        "name=\udcff",
        "+",
        "~",
        "++=",
    ),
    *("tags=" + "[" * 2000, "seed=" + "1" * 5000, "@=3", "model@=lstm", "a@b@c=3", "/=3", "a/=3"),
)


@pytest.mark.parametrize("override", MALFORMED, ids=lambda text: ascii(text)[:30])
def test_malformed_overrides(refused, override):
    line = refused("run", "--", override)
    assert len(line) <= 2000
    assert line.isprintable()
    assert "cannot read" in line or "no such key" in line or "Could not override" in line


@pytest.mark.parametrize("override", ["hydra.run.dir=" + "x" * 300, "model=" + "x" * 9000, "+x=" + "y" * 9000])
def test_very_long_values(refused, override):
    line = refused("run", override)
    assert len(line) <= 2000
    assert line.startswith(override[:12].lstrip("+"))


INTERPOLATIONS = (
    "name=${nope}",
    "name=${name}",
    "name=${oc.env:FEDSIM_NOPE}",
    "name=${nope:3}",
    "name=???",
    "seed=${model}",
)


@pytest.mark.parametrize("override", INTERPOLATIONS)
def test_interpolations_that_cannot_be_resolved(refused, override):
    assert override.split("=")[0] in refused("run", override)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run seed=1,2", "seed=1,2: several values make a sweep; add -m (--multirun)"),
        ("run model=rnn,lstm", "model=rnn,lstm: several values make a sweep; add -m (--multirun)"),
        ("run seed=range(1,3)", "seed=range(1,3): several values make a sweep"),
        ("run -m seed=interval(0,1)", "seed=interval(0,1): a sweep takes single values"),
        ("run --config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("run --cfg nonsense", "--cfg nonsense: must be job, hydra or all"),
        ("run --cfg job -m seed=1,2", "--cfg job: prints the config of one run"),
        ("run --cfg job --dry-run", "--cfg job: prints the config of one run"),
        ("run --cfg", "--cfg"),
        ("run --config-dirr x", "--config-dirr"),
        ("run -x", "-x"),
        ("run --resolve", "--resolve"),
        ("run --allow-module", "--allow-module"),
        ("runn", "runn"),
        ("--nonsense", "--nonsense"),
        ("list modle", "modle: found in no group, option, key or explanation (did you mean 'model'?); fedsim list "),
        ("list model=gur", "model=gur: no such option (did you mean 'gru'?); available: cifg, gru, "),
        ("list model xyzzy", "xyzzy: found in no group, option, key or explanation; fedsim list shows the groups"),
        ("list --config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("compare", "runs"),
        ("compare nowhere", "nowhere: no such file or folder"),
    ],
)
def test_commands_and_options(refused, arguments, expected):
    assert expected in refused(*arguments.split())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("seed=1,2 model=gru,lstmm", "model=lstmm: no such option (did you mean 'lstm'?)"),
        ("model.hidden_size=2,3,x", "model.hidden_size=x: must be a whole number"),
        ("model=rnn,gru model.nonlinearity=relu", "model.nonlinearity=relu: no such key"),
        ("sampler.cohort_size=2,4", "sampler.cohort_size=4: there are only 3 clients"),
        ("model.hidden_size=2,3 modl=3", "modl=3: no such key"),
        (
            "seed=1,2 hydra.sweep.subdir=same",
            "hydra.sweep.subdir=same: must give each job of a sweep its own",
        ),
        ("seed=1,2 hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size=0: must be at least 1"),
        ("seed=1,2 hydra.sweep.dir=a,b", "hydra.sweep.dir=a,b"),
    ],
)
def test_a_sweep_with_one_wrong_combination(refused, tiny, overrides, expected):
    assert expected in refused("run", "-m", *tiny, *overrides.split())


BAD_FILES = {
    "tabs": "a:\n\t- b\n",
    "brackets": "a: [1, 2\n",
    "list": "- 1\n- 2\n",
    "word": "hello\n",
    "empty": "",
    "duplicate": "seed: 1\nseed: 2\n",
    "python": "seed: !!python/object/apply:os.system ['touch pwned']\n",
    "defaults": "defaults: 5\n",
    "missing default": "defaults:\n  - /model: nope\n",
    "recursive": "defaults:\n  - trial\n",
    "unknown key": "# @package _global_\nfoo: 3\n",
    "wrong type": "# @package _global_\nmodel:\n  hidden_size: big\n",
    "no package": "rounds: 3\n",
    "null part": "# @package _global_\nmodel: null\n",
    "word as part": "# @package _global_\nmodel: gru\n",
    "number as key": "# @package _global_\n5: 3\n",
}


@pytest.mark.parametrize("kind", [kind for kind in BAD_FILES if kind != "empty"])
def test_broken_files_of_the_user(refused, write_config, kind):
    folder = write_config("experiment/trial.yaml", BAD_FILES[kind])
    assert refused("run", "--config-dir", folder, "experiment=trial")
    assert not list(folder.rglob("pwned"))


def test_a_file_that_is_not_text(refused, write_config):
    folder = write_config("experiment/trial.yaml", "")
    (folder / "experiment" / "trial.yaml").write_bytes(b"\xff\xfe\x00seed: 3")
    assert refused("run", "--config-dir", folder, "experiment=trial")


@pytest.mark.parametrize("name", ["config.yaml", "model/gru.yaml", "aggregator/combine/mean.yaml"])
def test_a_file_that_hydra_would_never_read(refused, write_config, name):
    line = refused("run", "--config-dir", write_config(name, "# mine\n"))
    assert f"{name} has the name of one of fedsim's own files; rename it" in line


def test_setting_one_of_an_exclusive_pair_unsets_the_other(fedsim, tiny):
    def dry(*overrides):
        answer = fedsim("run", *[t for t in tiny if "epochs" not in t], *overrides, "--dry-run")
        assert answer.code == 0, answer
        return answer.out

    assert "min 7, max 7, all 21" in dry("client.steps=7")
    assert "of which 2 in round 1" in dry("sampler.cohort_size=2")
    assert "min 7, max 7" in dry("client.steps=7", "client.epochs=null")
    assert "min 3, max 3" in dry("client.steps=null", "client.epochs=3")


WORDS = {
    "client.clip_norm=inf": "client.clip_norm=inf: must be greater than 0 and finite",
    "attack=scale attack.clients=0,3": (
        "attack.clients=0,3: several values make a sweep; add -m (--multirun) to fedsim run, or write "
        "attack.clients=[0,3] for one list"
    ),
    "name=a,b": "name=a,b: several values make a sweep; add -m (--multirun) to fedsim run",
    "++attack.x=1": "attack.x=1: no such key, as NoAttack has none; see fedsim list attack",
    "hydra/launcher=basic,joblib": (
        "hydra/launcher=basic,joblib: is the same for all jobs of a sweep and takes one value"
    ),
}


@pytest.mark.parametrize("overrides", WORDS)
def test_words_that_say_what_is_wrong(refused, overrides):
    assert refused("run", "data=synthetic", *overrides.split()) == WORDS[overrides]


LARGE = {
    "client.optimizer.lr=1e300": "client.optimizer.lr=1e+300: is beyond the numbers of dtype=float32, the largest of",
    "client.optimizer.lr=-1e300": "client.optimizer.lr=-1e+300: must be ",
    "client.optimizer.weight_decay=1e39": "client.optimizer.weight_decay=1e+39: is beyond the numbers of dtype=float32",
    "attack=backdoor attack.value=1e308": "attack.value=1e+308: is beyond the numbers of dtype=float32, the largest of",
    f"client.optimizer.lr={'9' * 320}": "999: must be a number within the range of numbers",
    f"seed={'9' * 320}": f"seed={'9' * 320}: must be at most 9223372036854775807",
    f"rounds=-{'9' * 320}": f"rounds=-{'9' * 320}: must be at least -2147483647",
    f"attack=scale attack.clients=[{'9' * 320}]": "must be at most 2147483647",
    "attack=scale attack.clients=[[[1]]]": "attack.clients=[[[1]]]: must be a list, each entry a whole number or null",
    f"rounds={'9' * 5000}": "cannot read 'rounds=999",
    "model.num_layers=2147483647": "model.num_layers=2147483647: must be at least 1 and at most 1000",
    "model.hidden_size=2147483647": "model.hidden_size=2147483647: makes a model of ",
    "hydra/sweeper=[a]": "hydra/sweeper=['a']: must be one of basic, optuna",
    "hydra/launcher={a:1}": "hydra/launcher={'a': 1}: must be one of basic, joblib, ",
}


@pytest.mark.parametrize("overrides", LARGE)
def test_numbers_and_kinds_that_nothing_can_hold(refused, overrides):
    assert LARGE[overrides] in refused("run", "data=synthetic", *overrides.split())


def test_float64_holds_more(fedsim, tiny):
    answer = fedsim("run", *tiny, "dtype=float64", "client.optimizer.lr=1e39", "--dry-run")
    assert answer.code == 0, answer


def test_a_product_of_settings_that_overflows(fedsim, tiny):
    """A decay of 1e30 times a rate of 1e30 is 1e60; a float of a float32 tensor is at most 3.4e38."""
    answer = fedsim(
        "run", *tiny, "client/optimizer=adamw", "client.optimizer.lr=1e30", "client.optimizer.weight_decay=1e30"
    )
    assert answer.code in (2, 3), answer
    assert "Traceback" not in answer.err
    assert answer.err.count("\n") == 1


def test_a_dry_run_refuses_what_the_run_would(refused):
    overrides = ("data=synthetic", "model.hidden_size=1000000")
    assert refused("run", *overrides, "--dry-run") == refused("run", *overrides)


@pytest.mark.parametrize("sweep", [("seed=range(1,1e9)",), ("model.hidden_size=glob(*)",), ("hydra/sweeper=[a]",)])
def test_sweeps_without_end_or_sense(refused, sweep):
    assert refused("run", "-m", "data=synthetic", *sweep).startswith(sweep[0].split("[")[0])
