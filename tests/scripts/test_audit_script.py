"""`scripts/audit.py`: every defence works with both audits."""

import importlib.util
from pathlib import Path

import fedsim
from fedsim.config.compose import Request, check_request, normalise
from fedsim.federation.prepare import prepare

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "audit.py"


def test_every_defence_is_accepted():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    for defence in study.DEFENCES.values():
        for audit in (study.MEMBERSHIP, study.INVERSION):
            overrides = (*study.DATA, *study.BASE, *defence, *audit)
            prepare(check_request(normalise(Request(overrides)))[0].experiment)
