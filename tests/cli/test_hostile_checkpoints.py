"""Checkpoints that are damaged or made by somebody else: every key and every tensor, with digests made right again.

Whatever a checkpoint says, each command ends as if it were intact (what changed does not matter to it) or not there (an
earlier one is taken), or is refused in one line with exit code 2 before anything is written.
"""

import copy
import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from fedsim.runs import checkpoints

LAST = "checkpoints/round_000003.safetensors"
SETTINGS = {
    "scaffold": ("aggregator=scaffold", "aggregator/server_optimizer=momentum"),
    "asynchronous": (
        *("schedule=fedbuff", "schedule.buffer_size=1", "system=devices", "sampler.fraction=null"),
        *("sampler.cohort_size=2", "link/up=topk", "dtype=float64"),
    ),
    "private": ("client/optimizer=adam", "client.keep_optimizer_state=true", "aggregator.blocks=[recurrent]"),
    "counted": ("privacy=local_dp", "aggregator/combine=mean", "link/down=sign"),
    "personal": ("personalize=ditto", "link/down=topk", "aggregator/server_optimizer=adam"),
}
COMMANDS = {
    "resume": ("resume", "run", "rounds=4"),
    "fork": ("resume", "run", "--after-round", "3", "rounds=5", "client.optimizer.lr=0.1", "hydra.run.dir=fork"),
    "export": ("export", "run", "--out", "out"),
    "evaluate": ("evaluate", "run"),
    "best": ("evaluate", "run", "--checkpoint", "best"),
    "elsewhere": ("evaluate", "run", "seed=5"),
    "from it": ("run", f"init_from=run/{LAST}", "hydra.run.dir=next"),
    "from its run": ("run", "init_from=run", "hydra.run.dir=next"),
}
WRITTEN = ("fork", "out", "next")
VALUES = (
    *("null", "true", '"x"', '""', "[]", "{}", "-1", "0", "1.5", "3", "1e308", "1" + "0" * 400, "9" * 5000, "NaN"),
    *("Infinity", "[" * 900 + "]" * 900, '{"a":' * 400 + "1" + "}" * 400, "[[1]]", r'"\ud800"', r'"\u0000"'),
    *("4000000000", "100000000000000"),
)
MISSING = "missing"
HERE = "put the value here"


@pytest.fixture(autouse=True)
def _quick(one_thread):
    yield
    release()


def release():
    """Free what the commands have made and frozen, as processes that are about to end."""
    gc.unfreeze()
    gc.enable()
    gc.collect()


@pytest.fixture
def attacked(fedsim, tiny):
    """Return ``attacked(name)``, which makes a run: its facts, tensors and ``outcome(command, content)``."""

    def make(name):
        settings = [*tiny, *SETTINGS[name], "rounds=3", "checkpoint.every=1"]
        answer = fedsim("run", *settings, "hydra.run.dir=good")
        assert answer.code == 0, answer
        facts, tensors = unpacked(Path("good") / LAST)
        del facts["digest"]

        def outcome(command, content):
            for folder in ("run", *WRITTEN):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree("good", "run")
            if content is None:
                (Path("run") / LAST).unlink()
            elif content != b"intact":
                (Path("run") / LAST).write_bytes(content)
            before = tree("run")
            words = COMMANDS[command]
            answer = fedsim(*words, *(settings if words[0] == "run" else ()))
            return (
                answer,
                result(answer),
                [name for name in tree("run").items() ^ before.items() if name[0] != "run.log"],
            )

        return facts, tensors, outcome

    return make


def unpacked(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["fedsim"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


def packed(text, tensors, sealed=True):
    return save(tensors, metadata={"fedsim": checkpoints._sealed(text) if sealed else text})


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def result(answer):
    """What a command has made: the rows of the run, the exported model, or the scores."""
    for path in ("fork/metrics.csv", "next/metrics.csv"):
        if Path(path).exists():
            return Path(path).read_text()
    if Path("out/model.json").exists():
        tensors = {name: value.tolist() for name, value in sorted(load_file("out/model.safetensors").items())}
        return Path("out/model.json").read_text() + str(tensors)
    if answer.out.startswith("round") and "test_loss" in answer.out.splitlines()[1]:
        return answer.out
    return Path("run/metrics.csv").read_text()


def check(case, command, found, allowed):
    """The verdict on one command: as if intact or absent, or one line."""
    answer, made, changed = found
    lines, case = answer.err.splitlines(), (case, command, answer)
    assert "Traceback" not in answer.err, case
    assert all(line.split(":")[0] in ("error", "warning", "data") for line in lines), case
    assert all(len(line) < 1200 for line in lines), case
    assert answer.code in (0, 2), case
    if answer.code == 0:
        assert allowed is None or made in allowed, case
    else:
        assert sum(line.startswith("error: ") for line in lines) == 1, case
        assert not changed, case
        assert not [path for folder in WRITTEN for path in Path(folder).rglob("*")], case


def attack(outcome, cases, commands=None):
    """Try every command, or one after another, on the content of each case."""
    allowed = {}
    for number, (case, content, strict) in enumerate(cases):
        for command in COMMANDS if commands is None else [commands[number % len(commands)]]:
            if command not in allowed:
                allowed[command] = {outcome(command, intact)[1] for intact in (b"intact", None)}
            check(case, command, outcome(command, content), allowed[command] if strict else None)
        if number % 50 == 0:
            release()


# ---------------------------------------------------------------------------------------------------------------------
# the JSON


def places(node, prefix=()):
    """The paths of all keys, and of the first entry of every list."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield (*prefix, key)
            yield from places(child, (*prefix, key))
    elif isinstance(node, list) and node:
        yield (*prefix, 0)
        yield from places(node[0], (*prefix, 0))


def with_value(facts, path, value):
    facts = node = copy.deepcopy(facts)
    for key in path[:-1]:
        node = node[key]
    if value == MISSING:
        del node[path[-1]]
        return json.dumps(facts)
    node[path[-1]] = HERE
    return json.dumps(facts).replace(f'"{HERE}"', value)


def with_extra(facts, path):
    facts = node = copy.deepcopy(facts)
    for key in path:
        node = node[key]
    node["extra"] = 1
    return json.dumps(facts)


def of_json(facts, tensors):
    """Contents in which one key is another, missing or added; and texts that are no such JSON at all."""
    mappings = [(), *(path for path in places(facts) if isinstance(at(facts, path), dict))]
    texts = [
        ((path, value[:20]), with_value(facts, path, value)) for path in places(facts) for value in (*VALUES, MISSING)
    ]
    texts += [((path, "extra"), with_extra(facts, path)) for path in mappings]
    cases = [(case, packed(text, tensors), True) for case, text in texts]
    cases += [(("whole", text[:20]), packed(text, tensors, sealed=False), True) for text in VALUES]
    text = json.dumps(facts)
    stale = checkpoints._sealed(text).replace('"num_clients": 3', '"num_clients": 4')
    cases += [("unsealed", packed(text, tensors, sealed=False), True), ("stale", packed(stale, tensors, False), True)]
    return cases


def at(facts, path):
    for key in path:
        facts = facts[key]
    return facts


def test_some_values_of_the_json(attacked):
    facts, tensors, outcome = attacked("scaffold")
    attack(outcome, of_json(facts, tensors)[::67], list(COMMANDS))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_every_value_of_the_json(attacked, share):
    facts, tensors, outcome = attacked("scaffold")
    attack(outcome, of_json(facts, tensors)[share::8])


WRONG = {
    ("round",): {"1.5": "round=1.5: must be a whole number from 0", "true": "round=true: must be a whole number"},
    ("num_clients",): {
        "0": "num_clients=0: must be a whole number from 1",
        "2147483647": "num_clients=2147483647: are too many",
        "9" * 5000: "holds a whole number of 5000 digits, beyond 64 bits",
    },
    ("progress", "best"): {"NaN": "progress.best=NaN: must be a number or null"},
    ("progress", "mode"): {'"middle"': 'progress.mode="middle": must be min or max'},
    ("progress", "since_best"): {"4": "progress.since_best=4: must be a whole number from 0 to 3, the round"},
    ("run",): {"[]": "run=[]: must be a mapping"},
    ("run", "model", "parameters"): {"null": "run.model.parameters=null: must be a mapping of shapes"},
    ("run", "model", "parameters", "head.bias"): {"[5.0]": "run.model.parameters.head.bias=[5.0]: must be a list of"},
    ("run", "model", "cell"): {MISSING: "run.model.cell: is missing"},
    ("run", "versions", "torch"): {"2": 'run.versions={"'},
}


@pytest.mark.parametrize("path", WRONG)
def test_what_is_wrong_is_said(attacked, fedsim, path):
    facts, tensors, outcome = attacked("scaffold")
    for value, words in WRONG[path].items():
        answer, _, changed = outcome("from it", packed(with_value(facts, path, value), tensors))
        assert (answer.code, answer.err.count("\n"), changed) == (2, 1, []), answer
        assert answer.err.startswith(f"error: init_from=run/{LAST}: run/{LAST}: is not a complete checkpoint") or (
            "cannot be read as a checkpoint" in answer.err
        )
        assert words in answer.err


def test_a_size_takes_no_memory(attacked):
    """A stranger's number of bytes of metrics.csv is not what is asked of the system."""
    facts, tensors, outcome = attacked("scaffold")
    for size in ("1" + "0" * 13, "4000000000"):
        content = packed(with_value(facts, ("run", "metrics", "size"), size), tensors)
        answer, _, _ = outcome("resume", content)
        assert answer.code == 0
        assert "it belongs to another run, or run/metrics.csv has changed; it is not used" in answer.err


# ---------------------------------------------------------------------------------------------------------------------
# the tensors


def others(value):
    """The same tensor in other types, in other shapes and with other numbers; and whether a run could have it."""
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool)
    for kind in (*types, torch.complex64, torch.float8_e4m3fn):
        if kind != value.dtype:
            yield str(kind), value.to(kind)
    flat = value.reshape(-1)
    yield from {
        "nothing": value.new_zeros((0,)),
        "longer": torch.cat([flat, flat[:1]]),
        "flat": value.reshape(1, -1),
        "deep": value.reshape(1, 1, -1),
        "wide": value.new_zeros((0, 10**15)),
    }.items()
    for number in (float("nan"), float("inf")) if value.is_floating_point() else (-1, -(2**63), 2**63 - 1):
        changed = value.clone()
        changed.reshape(-1)[0] = number
        yield str(number), changed


def of_tensors(facts, tensors):
    """Contents in which one tensor is another, missing or added."""

    def right(changed):
        digest = checkpoints._digest({name: value.contiguous() for name, value in changed.items()})
        text = json.dumps(facts | {"tensors": digest})
        return packed(text, {name: value.contiguous() for name, value in changed.items()})

    cases = []
    for name, value in tensors.items():
        if name.endswith("vanishes"):  # any truth value may be right
            continue
        cases.append(((name, MISSING), right({key: kept for key, kept in tensors.items() if key != name}), True))
        cases += [((name, how), right(tensors | {name: changed}), how != "flat") for how, changed in others(value)]
    extra = ("extra", "store/x", "store/x/clients", "store/x/rows", "store//clients", "drawers/x/y", "drawers/server/x")
    for name in (*extra, "drawers/traffic/x", "store/correction.own/other"):
        for value in (torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros((2, 51))):
            cases.append(((name, "extra"), right(tensors | {name: value}), True))
    stale = packed(json.dumps(facts), tensors | {"row": tensors["row"] + 1})
    return [*cases, ("stale", stale, True)]


@pytest.mark.parametrize("name", SETTINGS)
def test_some_tensors(attacked, name):
    if name == "counted":
        pytest.importorskip("dp_accounting")
    facts, tensors, outcome = attacked(name)
    attack(outcome, of_tensors(facts, tensors)[::11], list(COMMANDS))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_tensor(attacked, name):
    if name == "counted":
        pytest.importorskip("dp_accounting")
    facts, tensors, outcome = attacked(name)
    attack(outcome, of_tensors(facts, tensors))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(attacked, fedsim, number):
    facts, tensors, _ = attacked("scaffold")
    row = tensors["row"].clone()
    row[-5] = number  # the 5 biases of the head come last
    digest = checkpoints._digest(tensors | {"row": row})
    (Path("good") / LAST).write_bytes(packed(json.dumps(facts | {"tensors": digest}), tensors | {"row": row}))
    for name in ("1", "2"):
        (Path("good") / f"checkpoints/round_00000{name}.safetensors").unlink()
    answer = fedsim("export", "good")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"warning: good/{LAST}: the model's weights are not finite (head.bias); it is not used",
        "error: good: holds no saved model (there is no usable checkpoint)",
    ]
    assert not Path("good/export").exists()


def test_an_export_that_fails_leaves_nothing(attacked, fedsim):
    """Weights that are finite, and outputs that are not."""
    facts, tensors, _ = attacked("scaffold")
    tensors["row"] = torch.full_like(tensors["row"], -3e38)
    digest = checkpoints._digest(tensors)
    (Path("good") / LAST).write_bytes(packed(json.dumps(facts | {"tensors": digest}), tensors))
    answer = fedsim("export", "good", "--out", "out")
    assert answer.code == 2
    assert (
        answer.err == f"error: good/{LAST}: the model's outputs are not finite, on its test data or on random inputs\n"
    )
    assert not Path("out").exists()
    for words in (("resume", "good", "rounds=4"), ("evaluate", "good")):
        before = tree("good")
        answer = fedsim(*words)
        assert (answer.code, answer.err) == (2, f"error: good/{LAST}: round 3: the test loss is no longer finite\n")
        assert {name for name, _ in tree("good").items() ^ before.items()} <= {"run.log"}


def test_a_run_under_attack_goes_on(fedsim, tiny):
    """The error that a compressor leaves of a forged row need not be finite, and is no sign of damage."""
    settings = [
        *tiny,
        "attack=scale",
        "attack.factor=1e39",
        "attack.fraction=0.4",
        "link/up=topk",
        "checkpoint.every=1",
    ]
    assert fedsim("run", *settings, "rounds=4", "hydra.run.dir=whole").code == 0
    assert fedsim("run", *settings, "rounds=2", "hydra.run.dir=run").code == 0
    answer = fedsim("resume", "run", "rounds=4")
    assert (answer.code, answer.err) == (0, "")
    assert "going on after round 2" in answer.out
    assert Path("run/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
