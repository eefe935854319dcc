"""What methods refuse that reckon with the steps of plain gradient descent."""

from __future__ import annotations

from fedsim.clients.optimizers import SGD
from fedsim.core.facts import Fact
from fedsim.core.setting import Setting
from fedsim.errors import UserError


def check_plain_steps(setting: Setting, option: str, why: str, clips: bool = False) -> None:
    """Refuse local steps other than ``row - lr * gradient``.

    Args:
        setting: the settings of the run.
        option: the correction, as the config calls it.
        why: why it needs plain steps, as the end of a sentence.
        clips: whether ``client.clip_norm`` goes with it.

    Raises:
        UserError: if the local optimizer is another, has momentum or weight decay, or gradients are clipped.
    """
    optimizer = setting.client.optimizer
    plain = isinstance(optimizer, SGD) and optimizer.momentum == 0 and optimizer.weight_decay == 0
    if not plain or (setting.client.clip_norm is not None and not clips):
        without = "momentum and weight_decay" if clips else "momentum, weight_decay and client.clip_norm"
        raise UserError(
            f"aggregator/correction={option}: needs plain steps, {why}; use client/optimizer=sgd without {without}"
        )


def check_one_rate(setting: Setting, option: str) -> None:
    """Refuse learning rates that differ among the clients of a round, for a part that knows the round's alone.

    Args:
        setting: the settings of the run.
        option: the part, as on the command line.

    Raises:
        UserError: if the schedule is asynchronous and the learning rate falls.
    """
    if Fact.ASYNCHRONOUS in setting.facts and setting.client.lr_decay != 1:
        raise UserError(
            f"client.lr_decay={setting.client.lr_decay}: under {setting.facts[Fact.ASYNCHRONOUS]} clients start with "
            f"different learning rates, which {option} does not know; take client.lr_decay=1"
        )
