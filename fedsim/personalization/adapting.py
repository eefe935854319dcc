"""Corrections that train a model from which each client makes its own."""

from __future__ import annotations

from fedsim.core.facts import Fact
from fedsim.core.setting import Setting
from fedsim.errors import UserError


def check_alone(setting: Setting, option: str) -> None:
    """Refuse another method that gives clients personal models, beside a correction that does.

    Args:
        setting: the settings of the run.
        option: the correction, as the config calls it.

    Raises:
        UserError: if another part makes personal models, too.
    """
    own = f"aggregator/correction={option}"
    other = setting.facts.get(Fact.PERSONAL, own)
    if other != own:
        off = "schedule=synchronous" if other.startswith("schedule=") else "personalize=none"
        raise UserError(f"{other}: {own} makes the personal models itself, from its own settings; take {off}")
