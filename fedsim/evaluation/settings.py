"""When a model is evaluated, on which clients, and on which samples."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.errors import FieldError, check_at_least, check_between


@dataclass(frozen=True)
class Eval:
    """When the global model is evaluated, and on what.

    Attributes:
        every: rounds between evaluations; round 0 and the last round are always evaluated.
        last: evaluate every one of this many last rounds too, for results that are a mean over them; None: only as
            `every` says.
        clients: evaluate this many clients, at least 2, the same in every round, drawn by the seed from those that have
            test samples; columns that end in ``_se`` have the standard errors. None: all clients.
        validation_fraction: share of each client's training samples that is held back to judge the global model, which
            then chooses the best round and when to stop; the last ones where samples follow one another in time.
        unseen_clients: clients that never train, on which the global model is judged, too: how many, or which share of
            them (below 1), drawn by the seed, or a list of their names.
    """

    every: int = 1
    last: int | None = None
    clients: int | None = None
    validation_fraction: float = 0.0
    unseen_clients: int | float | list[str] | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, "every", "last")
        check_at_least(self, 2, "clients")  # one client has no standard error
        check_between(self, 0, 1, "validation_fraction", open_high=True)
        if self.last is not None and self.every == 1:
            raise FieldError("last", self.last, "has an effect only with eval.every above 1")
        unseen = self.unseen_clients
        if isinstance(unseen, list):
            if not unseen or len(set(unseen)) < len(unseen):
                raise FieldError("unseen_clients", unseen, "must name at least one client, and each once")
        elif isinstance(unseen, int):
            check_at_least(self, 1, "unseen_clients")
        elif unseen is not None and not 0 < unseen < 1:
            raise FieldError("unseen_clients", unseen, "must be a share above 0 and below 1, or a whole number")

    @property
    def holds_out(self) -> bool:
        """Whether samples or clients are kept out of training or of evaluation."""
        return self.validation_fraction > 0 or self.unseen_clients is not None or self.clients is not None

    def evaluates(self, round_number: int, rounds: int) -> bool:
        """Whether a round of a run of `rounds` rounds ends with an evaluation."""
        return round_number % self.every == 0 or rounds - round_number < max(self.last or 0, 1)

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the rounds that are evaluated depend on the round limit, beyond the last one itself."""
        return self.last is not None
