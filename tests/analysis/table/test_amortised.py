"""Rows of a policy that learnt offline to plan: its gain is that over the policy it improves, and it may be a base."""

import math

import pytest

from analysis.table.rows import groups_of
from tests.support.simulated_sweeps import of_table

BC = [[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]
IMPROVED = [[one + 5.0 for one in own] for own in BC]
AGAIN = [[one + 7.0 for one in own] for own in BC]


def cells(**facts):
    """The cloned policy, an improvement of it, and a planner that adapts the improvement."""
    improved = of_table(IMPROVED, "bc", kind="amortised", method="amortised", name="amortised")
    planner = of_table(AGAIN, "improved", kind="policy", method="again", name="again")
    for cell in improved:
        cell.facts.update(policy_key=f"improved-s{cell.seed}", **facts)
    return [*of_table(BC, "bc"), *improved, *planner]


def gains(found):
    return {group.row.method: group.row.gain_mean for group in found}


def test_each_gain_is_over_the_policy_that_it_began_with():
    groups, notes = groups_of(cells())
    assert gains(groups) == {"bc": None, "amortised": pytest.approx(5.0), "again": pytest.approx(2.0)}
    rows = {group.row.method: group.row for group in groups}
    assert (rows["amortised"].kind, rows["amortised"].base) == ("amortised", "bc")
    assert [group.is_planner for group in groups] == [False, True, True]
    assert notes == []


@pytest.mark.parametrize("unknown", [None, "", math.nan])
def test_records_that_do_not_name_the_policy_have_that_of_the_base(unknown):
    found = of_table(BC, "bc")
    for cell in found:
        cell.facts["policy_key"] = unknown
        assert cell.policy_key == cell.facts["base_key"]
        assert cell.is_frozen


def test_without_its_own_rows_a_planner_on_top_of_it_has_no_gain_and_a_note():
    groups, notes = groups_of([cell for cell in cells() if cell.facts["method"] != "amortised"])
    assert gains(groups)["again"] is None
    assert len(notes) == 1
    assert "no gain is shown" in notes[0]
