"""Whatever a key is set to, there is a checked experiment or one `UserError`, and soon."""

import itertools
from functools import cache

import pytest
from omegaconf import OmegaConf

from fedsim.config import compose as config
from fedsim.config.keys import flat
from fedsim.config.loader import make_loader
from fedsim.errors import UserError

VALUES = (
    *("9" * 320, "-" + "9" * 320, "1e300", "-1e300", "1e39", "1e-320", "-1", "0", "nan", "inf", "-inf", "true"),
    *(
        "''",
        "null",
        "'" + "a" * 400 + "'",
        "[]",
        "[a]",
        "[[[1]]]",
        "[" + "9" * 320 + "]",
        "[1e300]",
        "{a:1}",
        "[{a:1}]",
    ),
    *("a,b", "glob(*)", "choice(1,2)", "range(1,1e9)", "range(1,inf)", "interval(0,1)", "shuffle(range(1,5e9))"),
)
EVERY = 29  # of the pairs of a key and a value; a prime, so that every value meets many keys


def choices():
    """The options of every group, one at a time; those that need another option beside them are left out."""
    for group, options in config.list_options().items():
        if group != "experiment":
            yield from (f"{group}={option}" for option in options)


@cache
def keys():
    """The option that each key comes with, the first one that has it."""
    loader, found = make_loader(None), {}
    for choice in choices():
        try:
            cfg = OmegaConf.to_container(config.compose(loader, [choice]))
        except UserError:
            continue
        values = flat({key: value for key, value in cfg.items() if key != "hydra"})
        for key in values:
            if not key.endswith("_target_"):
                component = values.get(f"{key.rpartition('.')[0]}._target_")
                found.setdefault((key, component), choice)
    return [(choice, key) for (key, _), choice in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("multirun", [False, True])
def test_every_key_with_values_beyond_reason(multirun):
    pairs = list(itertools.product(keys(), VALUES))[multirun::EVERY]
    assert len(pairs) > 200
    outcomes = {True: 0, False: 0}
    for (choice, key), value in pairs:
        request = config.Request((choice, f"{key}={value}"), multirun)
        try:
            config.check_request(config.normalise(request))
            outcomes[True] += 1
        except UserError as error:
            outcomes[False] += bool(str(error).strip())
        except Exception as error:
            raise AssertionError(f"fedsim run {choice} {key}={value}: {type(error).__name__}: {error}") from error
    assert sum(outcomes.values()) == len(pairs)
    assert min(outcomes.values()) > 5
