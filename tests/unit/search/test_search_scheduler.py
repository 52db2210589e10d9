"""Successive halving for two objectives: who climbs, nested subsets, and searches in simulated time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import ConfigError, DataError
from raysweep.metrics.front import nondominated
from raysweep.schema import FaceTable
from raysweep.search.fidelity import Ladder
from raysweep.search.scheduler import Bias, Halving, Rated, ranking
from raysweep.search.simulate import read_table, simulate
from raysweep.search.space import Space, load_space

POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def rated(*point: float, upper: tuple[float, ...] | None = None) -> Rated:
    return Rated(point, upper or point)


@given(POINTS)
def test_every_point_of_the_front_is_placed_before_every_other(points: list[tuple[float, float]]) -> None:
    place = ranking(points)
    assert sorted(place.tolist()) == list(range(len(points)))
    front = nondominated(points)
    assert set(place[front].tolist()) == set(range(int(front.sum())))


@given(POINTS)
def test_places_on_a_front_go_to_its_ends_first(points: list[tuple[float, float]]) -> None:
    place = ranking(points)
    front = np.flatnonzero(nondominated(points))
    ends = {int(front[np.argmax([points[row][axis] for row in front])]) for axis in (0, 1)}
    best_value = {points[row] for row in ends}
    assert points[int(np.flatnonzero(place == 0)[0])] in best_value


def test_one_in_eta_climbs_and_the_dominated_do_not() -> None:
    halving = Halving(Ladder(2, 3), trust=1.0, grace=3)
    values = np.random.default_rng(0).uniform(size=(150, 2))
    climbed = [halving.climbs(str(n), 0, rated(*value)) for n, value in enumerate(values)]
    assert 0.2 < np.mean(climbed[50:]) < 0.5
    assert not halving.climbs("bad", 0, rated(0.01, 0.01))
    assert halving.climbs("best", 0, rated(0.999, 0.999))


def test_the_top_rung_and_undefined_trials_go_nowhere() -> None:
    halving = Halving(Ladder(2, 3))
    assert halving.climbs("a", 0, rated(0.5, 0.5))
    assert not halving.climbs("a", 1, rated(0.5, 0.5))
    assert not halving.climbs("b", 0, None)
    assert "b" not in halving.reached[0]


def test_doubt_keeps_a_trial_in() -> None:
    def verdict(trust: float) -> bool:
        halving = Halving(Ladder(2, 3), trust=trust)
        for n in range(9):
            halving.climbs(str(n), 0, rated(0.5 + n / 100, 0.6 - n / 100))
        return halving.climbs("unsure", 0, rated(0.5, 0.5, upper=(0.8, 0.8)))

    assert not verdict(1.0)
    assert verdict(0.0)


def test_the_order_of_results_alone_decides() -> None:
    values = np.random.default_rng(1).uniform(size=(60, 2))

    def run() -> list[bool]:
        halving = Halving(Ladder(3, 3))
        return [halving.climbs(str(n), 0, rated(*value)) for n, value in enumerate(values)]

    assert run() == run()


def faces(people: int, images: int) -> FaceTable:
    identity = np.repeat(np.arange(people), images)
    role = np.where(identity < people // 10, "G", np.where(identity < people // 2, "T", "E"))
    return FaceTable(
        face_id=np.array([f"f{n}" for n in range(len(identity))]),
        identity=identity,
        expression=np.zeros(len(identity), dtype=np.int64),
        role=role,
        side=np.where(role == "E", "probe", ""),
        identity_names=tuple(f"p{n}" for n in range(people)),
    )


def test_rungs_are_nested_and_whole_people() -> None:
    table = faces(100, 5)
    small, middle, whole = Ladder(3, 3).rows(table, seed=4)
    assert set(small) < set(middle) < set(whole) == set(range(500))
    for rows, share in ((small, 1 / 9), (middle, 1 / 3)):
        for role in "TE":
            mine = rows[table.role[rows] == role]
            kept = np.unique(table.identity[mine])
            assert len(mine) == 5 * len(kept)
            assert len(kept) == pytest.approx(share * len(np.unique(table.identity[table.role == role])), abs=1)
        assert (table.role[rows] == "G").sum() == 50
    again = Ladder(3, 3).rows(table.take(np.arange(499, -1, -1)), seed=4)[0]
    assert set(499 - again) == set(small)


def test_a_ladder_that_is_too_steep_says_how_many_rungs_there_may_be() -> None:
    Ladder(2, 3).check(30)
    Ladder(1).check(2)
    with pytest.raises(ConfigError, match="rungs = 2 at most"):
        Ladder(3, 3).check(30)
    with pytest.raises(ConfigError, match="rungs = 0"):
        Ladder(0)


def test_what_a_small_rung_overstates_is_taken_off() -> None:
    bias = Bias()
    assert bias.corrected((0.9, 0.5), 0) == (0.9, 0.5)
    bias.learn([(0.9, 0.5), (0.7, 0.5)])
    bias.learn([(0.8, 0.4), (0.7, 0.4)])
    assert bias.corrected((0.65, 0.5), 0) == pytest.approx((0.5, 0.5))
    assert bias.corrected((0.65, 0.5), 1) == (0.65, 0.5), "nothing is known of rung 1"
    assert bias.corrected((0.1, 0.5), 0)[0] == 0.0


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Space]:
    """46 blurs: more blur, more privacy and less utility, with luck on the small rungs."""
    space_file = tmp_path / "blurs.yaml"
    space_file.write_text("anonymizer: blur\nparameters:\n  kernel_size: {low: 11, high: 101, step: 2}\n")
    space = load_space(space_file)
    random = np.random.default_rng(0)
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "anonymizer",
                "setting",
                "rung",
                "eta",
                "privacy",
                "privacy_hi",
                "utility",
                "utility_hi",
                "seconds",
                "whole",
            ]
        )
        for kernel in range(11, 102, 2):
            strength = (kernel - 11) / 90
            privacy, utility = strength**0.5, 1 - strength**3
            if kernel % 10 != 1:
                utility *= 0.5
            for rung, share in enumerate((1 / 9, 1 / 3, 1)):
                noise = random.normal(0, 0.05 * (1 - share), 2)
                p, u = np.clip([privacy + noise[0], utility + noise[1]], 0, 1)
                text = json.dumps({"kernel_size": kernel})
                writer.writerow(["blur", text, rung, 3, p, p, u, u, (1, 2, 6)[rung], (1, 3, 9)[rung]])
    return path, space


def test_halving_begins_more_settings_with_the_same_budget(recorded: tuple[Path, Space]) -> None:
    path, space = recorded
    table = read_table(path, space)
    assert len(table.scores) == 46
    budget = 90.0
    plain = simulate(table, space, sampler="random", ladder=Ladder(1), seed=1, budget=budget)
    halved = simulate(table, space, sampler="random", ladder=table.ladder, seed=1, budget=budget)
    assert plain.finished == 10
    assert halved.started > 1.5 * plain.started
    assert (np.diff(halved.volume) >= 0).all()
    everything = simulate(table, space, sampler="tpe", ladder=Ladder(1), seed=1, budget=1e9)
    # A sampler may end one or two settings early, when it proposes nothing but known ones.
    assert everything.finished >= 44
    assert everything.volume[-1] >= 0.99 * table.best
    assert everything.reaches(everything.volume[-1]) <= 46 * 9
    assert plain.at(0.0) == 0.0


def test_a_table_without_its_columns_is_refused(tmp_path: Path, recorded: tuple[Path, Space]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("anonymizer,setting\nblur,{}\n")
    with pytest.raises(DataError, match="not a table"):
        read_table(path, recorded[1])
