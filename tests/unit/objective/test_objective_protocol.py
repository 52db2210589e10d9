from __future__ import annotations

import pytest

from raysweep.objective import Protocol


@pytest.mark.parametrize(
    ("settings", "share", "expected"),
    [({}, 1 / 3, 20), ({"A3": {"epochs": 30}}, 1 / 3, 10), ({"A3": {"epochs": 2}}, 1 / 9, 1), ({"A3": {"epochs": 0}}, 1 / 3, 0)],
)  # fmt: skip
def test_attackers_that_train_take_a_share_of_their_epochs_on_a_rung(
    settings: dict[str, dict[str, int]], share: float, expected: int
) -> None:
    whole = Protocol(attackers=("A0", "A3"), attacker_settings=settings, learning_curve=True)
    rung = whole.on_rung(share)
    lazy, trained = rung.make_attackers()
    assert trained.epochs == expected  # type: ignore[attr-defined]
    assert not hasattr(lazy, "epochs")
    assert (rung.controls, rung.learning_curve) == (False, False)
    assert whole.attacker_settings == settings
