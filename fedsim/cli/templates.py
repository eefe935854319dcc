"""What ``fedsim init`` writes. Lines have at most 88 characters, so that Ruff's defaults leave them as they are."""

from __future__ import annotations

from typing import NamedTuple


class Files(NamedTuple):
    """The files of a component, with ``$name``, ``$cls`` and ``$configs`` (quoted) to be replaced.

    Attributes:
        module: with the dataclass.
        test: of its numbers, and of its YAML.
        yaml: its option.
        words: overrides that a first run needs, besides the option.
    """

    module: str
    test: str
    yaml: str
    words: tuple[str, ...]


EXPERIMENT = """\
# @package _global_
# Mine: say here in one line what it is about, which fedsim list shows
#
# All of this is fedsim's default: change what you like, and delete what you do not need. The options of a group are
# in `fedsim list GROUP`, the keys of an option in `fedsim list GROUP=OPTION`, and `fedsim list WORD` finds anything.
# A key belongs to the option that is chosen: with another option, see what its own default is.
defaults:
"""

RULE = Files(
    module='''\
"""An aggregation rule: how the clients' changes become one. Put yours in its place."""

from dataclasses import dataclass
from typing import ClassVar

from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_between
from torch import Tensor


@dataclass(frozen=True)
class $cls:
    """The mean of deltas, each brought towards the median length of the cohort first.

    Attributes:
        strength: 0 leaves lengths as they are (the plain mean), 1 makes them all equal.
    """

    strength: float = 1.0

    # What others must know of the rule, see fedsim/core/facts.py: it looks at single
    # deltas, and weighs the clients of a cohort against each other.
    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        check_between(self, 0, 1, "strength")

    def check(self, setting: Setting) -> None:
        """Refuse, before anything is written, a run that the rule cannot help."""
        if setting.largest < 2:
            what = "aggregator/combine=$name"
            raise UserError(f"{what}: one client has no others to be compared with")

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the change of the global model, which the server optimizer adds to it.

        Args:
            deltas: ``[C, P]``, local - global for each client of the cohort.
            report: num_samples, local_steps and train_loss, ``[C]`` each.

        Returns:
            ``[P]``.
        """
        rows = deltas.double()
        lengths = rows.norm(dim=1).clamp(min=1e-12)
        factors = (lengths.median() / lengths) ** self.strength
        return (factors[:, None] * rows).mean(dim=0)
''',
    test='''\
"""The numbers of the rule, derived by hand, and its YAML."""

from pathlib import Path

import pytest
import torch
from fedsim.clients.report import Report
from fedsim.config.compose import Request, check_request, normalise
from fedsim.errors import UserError

from $name import $cls

CONFIGS = Path(__file__).parent / $configs
DELTAS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -4.0]])
ONES = torch.tensor([1, 1, 1])
REPORT = Report(num_samples=ONES, local_steps=ONES, train_loss=ONES.double())


def test_by_hand() -> None:
    """The median length is 2: [2, 0], [0, 2] and [0, -2] have the mean [2/3, 0]."""
    combined = $cls().combine(DELTAS, REPORT)
    assert combined.tolist() == pytest.approx([2 / 3, 0])


def test_strength_0_is_the_plain_mean() -> None:
    """A special case that must coincide with something known."""
    combined = $cls(strength=0.0).combine(DELTAS, REPORT)
    assert combined.tolist() == pytest.approx([1 / 3, -2 / 3])


def test_bad_values_are_refused() -> None:
    """With the name of the field."""
    with pytest.raises(UserError, match="strength"):
        $cls(strength=2.0)


def test_the_yaml_has_the_same_fields_and_defaults() -> None:
    """It composes as on the command line."""
    words = ("aggregator/combine=$name",)
    allowed = ("$name",)
    request = Request(words, config_dir=str(CONFIGS), allow_modules=allowed)
    (job,) = check_request(normalise(request))
    assert job.experiment.aggregator.combine == $cls()
''',
    yaml="""\
# The mean of deltas, each brought towards the median length of the cohort first
_target_: $name.$cls
strength: 1.0  # 0: lengths as they are, 1: all equal
""",
    words=("rounds=5",),
)

DATA = Files(
    module='''\
"""A data source: the samples, and whose they are. Put yours in the example's place."""

from dataclasses import dataclass

import numpy as np
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.errors import check_at_least


@dataclass(frozen=True)
class $cls:
    """Does a noisy sine rise in its last step? Every client has its own frequency.

    Attributes:
        clients: how many, one frequency each.
        noise: standard deviation of what is added to the sines.
    """

    clients: int = 20
    noise: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        check_at_least(self, 1, "clients")
        check_at_least(self, 0, "noise")

    def load(self, seed: int) -> Dataset:
        """Return the samples; the same for the same seed."""
        rng = np.random.default_rng(seed)
        train, test = self._samples(40, rng), self._samples(10, rng)
        return Dataset(
            name="$name",
            task=Task.CLASSIFICATION,
            train=train,
            test=test,
            num_outputs=2,  # labels
            client_names=tuple(f"client {k}" for k in range(self.clients)),
        )

    def _samples(self, each: int, rng: np.random.Generator) -> Split:
        """Return so many samples of every client, a client's behind each other."""
        owner = np.repeat(np.arange(self.clients), each)
        start = rng.uniform(0, 2 * np.pi, len(owner))
        wave = np.sin(start[:, None] + 0.1 * (1 + owner[:, None]) * np.arange(30))
        inputs = wave + self.noise * rng.standard_normal(wave.shape)
        return Split(
            inputs=inputs[:, :, None].astype(np.float32),  # [S, T, D]: D numbers a step
            lengths=np.full(len(owner), 30),  # [S]: valid steps, the others are padding
            targets=(wave[:, -1] > wave[:, -2]).astype(np.int64),  # [S]: labels from 0
            clients=owner,  # [S]: whose samples they are with partition=natural
        )
''',
    test='''\
"""The samples of the data source, and its YAML."""

from pathlib import Path

import numpy as np
import pytest
from fedsim.config.compose import Request, check_request, normalise
from fedsim.errors import UserError

from $name import $cls

CONFIGS = Path(__file__).parent / $configs


def test_sizes() -> None:
    """Twenty clients have 40 training and 10 test samples of 30 steps each."""
    found = $cls().load(seed=0)
    assert found.train.inputs.shape == (800, 30, 1)
    assert found.test.inputs.shape == (200, 30, 1)
    assert np.bincount(found.train.clients).tolist() == [40] * 20


def test_labels() -> None:
    """Without noise, the inputs themselves say whether the sine rises at its end."""
    found = $cls(noise=0.0).load(seed=0)
    for split in (found.train, found.test):
        rises = [before < last for before, last in split.inputs[:, -2:, 0]]
        assert split.targets.tolist() == rises
        assert 0.3 < np.mean(rises) < 0.7


def test_the_seed_decides() -> None:
    """The same seed gives the same samples, and another one others."""
    source = $cls()
    first, again, other = (source.load(seed).train.inputs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bad_values_are_refused() -> None:
    """With the name of the field."""
    with pytest.raises(UserError, match="clients"):
        $cls(clients=0)


def test_the_yaml_has_the_same_fields_and_defaults() -> None:
    """It composes as on the command line."""
    words = ("data=$name", "partition=natural")
    allowed = ("$name",)
    request = Request(words, config_dir=str(CONFIGS), allow_modules=allowed)
    (job,) = check_request(normalise(request))
    assert job.experiment.data == $cls()
''',
    yaml="""\
# Does a noisy sine rise in its last step? Every client has its own frequency
_target_: $name.$cls
clients: 20  # how many, one frequency each
noise: 0.1   # standard deviation of what is added to the sines
""",
    words=("partition=natural", "rounds=5"),
)
