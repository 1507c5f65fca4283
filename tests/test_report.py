"""Report: closed forms on counts that are small enough to do by hand, the JSON round trip, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from hasp.errors import HaspError
from hasp.report import Report
from hasp.text import format_bytes, table


def a_report(**changes) -> Report:
    """Two parts of 10 titles and 4 games; 3 genres in every part, 5 of 20 users by sample."""
    fields = {
        "num_parts": 2,
        "num_nodes": {"title": 10, "game": 4, "genre": 3, "user": 20},
        "node_roles": {"title": "entity", "game": "entity", "genre": "semantic", "user": "sampled"},
        "num_edges": {
            "title__co__title": 40,
            "title__based_on__game": 10,
            "title__near__title": 8,
            "title__has__genre": 30,
            "genre__sub__genre": 2,
            "user__saw__title": 12,
            "user__knows__user": 6,
        },
        "edge_roles": {
            "title__co__title": "eel",
            "title__based_on__game": "eel",
            "title__near__title": "entity-entity",
            "title__has__genre": "entity-semantic",
            "genre__sub__genre": "semantic-semantic",
            "user__saw__title": "sampled",
            "user__knows__user": "sampled",
        },
        "entities": {"title": [6, 4], "game": [1, 3]},
        "edges": {
            "title__co__title": [20, 15],
            "title__based_on__game": [4, 1],
            "title__near__title": [3, 3],
            "title__has__genre": [18, 12],
            "user__saw__title": [6, 6],
        },
        "cut": {"title__co__title": 5, "title__based_on__game": 5, "title__near__title": 2},
        "linked": [5, 6],
        "degree_groups": [[2, 2, 1], [6, 0, 0]],
        "quota": {"user": 5},
        "part_bytes": [3000, 1000],
        "shared_bytes": 100,
        "sampled_bytes": 200,
        "cut_bytes": 50,
        "loaded_bytes": [5000, 2500],
        "predicted": {"part_bytes": 5100, "peak_build_bytes": 9000},
    }
    return Report(**(fields | changes))


def test_kept_is_one_minus_the_cut_over_the_edges():
    report = a_report()
    assert report.kept["title__co__title"] == 1 - 5 / 40
    assert report.kept["title__based_on__game"] == 0.5
    assert report.kept["title__has__genre"] == report.kept["genre__sub__genre"] == 1.0
    assert report.kept_all == pytest.approx(1 - 12 / 108)
    assert report.edge_cut == pytest.approx(10 / 50)  # EELs alone: near is no EEL


def test_random_edge_cut_is_the_closed_form():
    by_type = a_report().random_edge_cut_by_type
    assert by_type["title__co__title"] == pytest.approx(1 - (6 * 5 + 4 * 3) / (10 * 9))
    assert by_type["title__based_on__game"] == pytest.approx(1 - (6 * 1 + 4 * 3) / (10 * 4))
    assert set(by_type) == {"title__co__title", "title__based_on__game", "title__near__title"}
    expected = (40 * by_type["title__co__title"] + 10 * by_type["title__based_on__game"]) / 50
    assert a_report().random_edge_cut == pytest.approx(expected)


def test_random_edge_cut_agrees_with_random_splits():
    rng = np.random.default_rng(0)
    sizes, n = [6, 4], 10
    src, dst = rng.integers(0, n, (2, 400))
    src, dst = src[src != dst], dst[src != dst]
    found = []
    for _ in range(400):
        part = rng.permutation(np.repeat([0, 1], sizes))
        found.append((part[src] != part[dst]).mean())
    assert np.mean(found) == pytest.approx(a_report().random_edge_cut_by_type["title__co__title"], abs=0.01)


def test_balance_and_replication():
    report = a_report()
    assert report.part_entities == [7, 7] and report.part_edges == [51, 37]
    assert report.balance == {"entities": 1.0, "edges": pytest.approx(51 / 44), "bytes": 1.5}
    assert report.replication_factor == pytest.approx((14 + 2 * (3 + 5)) / 37)


def test_share_of_sampled_edges():
    share = a_report().sampled_share
    assert share == {"user__saw__title": 5 / 20, "user__knows__user": pytest.approx(5 * 4 / (20 * 19))}


def test_one_part_and_no_edges_have_no_division_by_zero():
    report = Report(1, {"t": 1}, {"t": "entity"}, {"t__r__t": 0}, {"t__r__t": "eel"}, {"t": [1]}, {}, {}, [0], [[0, 0, 0]])
    assert (report.kept_all, report.edge_cut, report.random_edge_cut, report.replication_factor) == (1.0, 0.0, 0.0, 1.0)
    assert report.balance == {"entities": 1.0, "edges": 1.0, "bytes": 1.0}
    assert "1 part, 1 entities, 0 edges" in str(report)


@pytest.mark.parametrize("measured", [None, {"peak_build_bytes": 8000, "seconds": {"cut": 0.25}}])
def test_json_round_trip_is_exact(measured):
    report = a_report(measured=measured)
    text = json.dumps(report.to_json())
    assert Report.from_json(json.loads(text)) == report
    assert json.dumps(Report.from_json(json.loads(text)).to_json()) == text
    bare = report.to_json(measured=False)
    assert "measured" not in bare
    assert Report.from_json(bare, measured=measured) == report


def test_numpy_counts_become_plain_numbers():
    report = a_report(linked=np.array([5, 6]), part_bytes=np.array([3000, 1000], dtype=np.int32))
    assert report == a_report()
    json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linked": [1]}, "linked of a report has one value per part, got 1 for 2"),
        ({"entities": {"title": [1, 2, 3]}}, "entities"),
        ({"degree_groups": [[1, 2, 3]]}, "3 counts per part"),
        ({"cut": {"title__co__title": -1}}, "is a count >= 0, got -1"),
        ({"num_edges": {"nonsense": 3}}, "spelled <source>__<relation>__<destination>"),
    ],
)
def test_impossible_counts_are_refused(changes, message):
    with pytest.raises(HaspError, match=message):
        a_report(**changes)


@pytest.mark.parametrize("value", [{}, {"num_parts": 2}, [], a_report().to_json() | {"new_field": 1}])
def test_a_stored_report_that_is_none_is_refused(value):
    with pytest.raises(HaspError, match=r"stored report|newer version"):
        Report.from_json(value)


def test_text_has_every_figure_and_is_aligned():
    text = str(a_report(measured={"peak_build_bytes": 8000, "seconds": {"cut": 0.25}}))
    for figure in ("80.0 % (edge cut 20.0 %", "title__based_on__game", "50.0 %", "25.0 %", "5.1 kB", "5.0 kB", "cut 0.25"):
        assert figure in text
    rows = text.split("\n\n")[1].splitlines()
    head = rows[0]
    for column in ("edges", "kept", "sampled"):
        end = head.index(column) + len(column)
        assert all(row[end - 1] != " " and row[end : end + 1] in (" ", "") for row in rows[1:]), column
    assert "\x1b" not in text and all(line == line.rstrip() for line in text.splitlines())


def test_many_parts_are_summed_up():
    n = 500
    report = dataclasses.replace(
        a_report(),
        num_parts=n,
        entities={"title": [1] * n, "game": [0] * n},
        edges={},
        linked=[1] * n,
        degree_groups=[[1, 0, 0]] * n,
        part_bytes=[10] * n,
        loaded_bytes=[],
    )
    assert len(str(report).splitlines()) < 40 and "mean" in str(report)


def test_format_bytes_and_table():
    assert [format_bytes(b) for b in (0, 999, 1000, 999_949, 999_950, 123_456_789, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "123.5 MB",
        "5.0 TB",
    ]
    assert table(["a", "b"], [["long", "1"], ["x", "22"]]) == "a      b\nlong   1\nx     22"
