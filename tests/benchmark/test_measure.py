"""The warm-up run does not count; a plan counts every run."""

from gentool.benchmark.measure import COSTS, Plan, repeated, result


def test_the_warm_up_run_does_not_count(finish) -> None:
    values = iter(range(9))
    assert finish(repeated("run", 3, lambda: next(values))) == (["run"] * 4, [1, 2, 3])


def test_the_median_is_of_the_values() -> None:
    assert result("x", "s", [5, 1, 2]).median == 2.0


def test_a_cold_start_costs_what_its_runs_cost() -> None:
    with_it, without = Plan(repeat=2), Plan(repeat=2, cold_start=False)
    assert with_it.cost - without.cost == 3 * COSTS["cold start"]
    assert Plan(repeat=2, batch=(1,)).cost == with_it.cost - 3 * 2
