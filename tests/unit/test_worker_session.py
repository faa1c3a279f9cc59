"""How many slots a loaded copy may have."""

from __future__ import annotations

import pytest
from frame.api import Model, SequenceModel
from frame.wire.messages import LoadHead
from frame.worker.loading import most_slots


class Whole(Model):
    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency

    def predict(self, batch):
        return []


class Sequence(SequenceModel):
    concurrency = 4

    def capacity(self):
        return 8

    def admit(self, job, request):
        """Take no notice."""

    def step(self):
        return []

    def cancel(self, job):
        """Take no notice."""

    def predict(self, batch):
        return []


def head(shares_model: bool | None) -> LoadHead:
    return LoadHead(
        engine_target="", options_target="", name="m", version=None, path="/", model_file=None, properties={},
        batch_size=1, devices=["cpu"], rank=0, world_size=1, threads=1, slots=1, max_slots=3,
        shares_model=shares_model,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shares_model", "most"),
    [
        (Whole(1), None, 1),
        (Whole(2), None, 2),
        (Whole(9), None, 3),
        (Whole(0), None, 1),
        (Whole(1), True, 3),
        (Whole(9), False, 1),
        (Sequence(), None, 1),
        (Sequence(), True, 1),
    ],
)
def test_a_copy_has_the_slots_that_its_model_allows_or_the_configuration_forces(
    model: Model, shares_model: bool | None, most: int
) -> None:
    assert most_slots(head(shares_model), model) == most
