"""CONTRIBUTING's recipe "Adding an aggregation rule", followed with two files outside the package."""

RULE = '''
"""The delta with the largest norm."""

from dataclasses import dataclass
from typing import ClassVar

from fedsim.errors import UserError, check_at_least


@dataclass(frozen=True)
class Loudest:
    """The loudest client among those that do badly (from no paper)."""

    needs: ClassVar[tuple[str, ...]] = ("start_loss",)

    least_loss: float = 0.0

    def __post_init__(self):
        check_at_least(self, 0, "least_loss")

    def check(self, setting):
        if setting.smallest < 2:
            raise UserError("aggregator/combine=loudest: needs 2 clients")

    def combine(self, deltas, report):
        norms = deltas.norm(dim=1) * (report.start_loss >= self.least_loss)
        return deltas[norms.argmax()].double()
'''
YAML = """# The delta with the largest norm
_target_: my_rules.Loudest
least_loss: 0.0  # only of clients whose loss was at least this
"""


def test_a_rule_of_the_user(fedsim, refused, elsewhere, write_config, tiny):
    (elsewhere / "my_rules.py").write_text(RULE)
    folder = write_config("aggregator/combine/loudest.yaml", YAML)
    mine = ("--config-dir", folder, "--allow-module", "my_rules", *tiny, "aggregator/combine=loudest")
    answer = fedsim("run", *mine, "aggregator.combine.least_loss=0.5", "hydra.run.dir=run")
    assert answer.code == 0, answer
    assert len((elsewhere / "run" / "metrics.csv").read_text().splitlines()) == 4
    assert "least_loss: 0.5" in (elsewhere / "run" / "config.yaml").read_text()
    assert refused("run", *mine, "aggregator.combine.least_loss=-1").startswith("aggregator.combine.least_loss=-1.0: ")
    assert "needs 2 clients" in refused("run", *mine, "sampler.cohort_size=1")
    assert "--allow-module" in refused("run", "--config-dir", folder, *tiny, "aggregator/combine=loudest")
