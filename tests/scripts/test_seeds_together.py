"""The script that trains the runs of a sweep together."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "seeds_together.py"


def loaded():
    spec = importlib.util.spec_from_file_location("seeds_together", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_trained_together_are_those_of_separate_runs(capsys):
    """Seeds divide the samples otherwise and begin with other models; the last batch of an epoch is a smaller one."""
    (bound,) = loaded().main(["--seeds", "3", "--repeats", "1", "model.hidden_size=8", "sampler.fraction=0.3"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "trained together, 9 rows are those of separate runs, to the byte"
    assert second.startswith("3 seeds: rounds ")
    assert bound > 0
