"""The benchmarks of halos and their caches run at their small size, and hold what must hold of any figures."""

from bench import cache, halo, halo_quality, run


def test_no_policy_beats_the_clairvoyant_at_any_size(tmp_path):
    (table,) = cache.run("small")
    columns = list(cache.COLUMN.values())
    assert len(table.rows) == 2 * len(cache.POLICIES) and not table.alone()
    for name in {row["graph"] for row in table.rows}:
        rows = {row["policy"]: row for row in table.rows if row["graph"] == name}
        for column in columns:
            assert all(0 <= row[column] <= rows["clairvoyant"][column] <= 100 for row in rows.values())
        assert [rows["clairvoyant"][c] for c in columns] == sorted(rows["clairvoyant"][c] for c in columns)
    undirected = [row for row in table.rows if "both" in row["graph"] and "importance" in row["policy"]]
    assert len({tuple(row[c] for c in columns) for row in undirected}) == 1  # all rows are equally important
    assert table.drawing.startswith("<svg") and "clairvoyant" in table.drawing and len(table.drawing) < 150_000
    run.remember(tmp_path, table, "full", run.machine())
    again = run.last(tmp_path, "cache")
    assert again is not None and again.markdown() == table.markdown() and again.drawing == table.drawing


def test_halos_keep_all_links_and_their_cost_is_counted(tmp_path):
    (cost,), (quality,) = halo.run("small"), halo_quality.run("small")
    first, plain, *cached = cost.rows
    assert first["far ends read [MB]"] == 0 < plain["far ends read [MB]"] and plain["links kept"] == "100.0%"
    assert all(row["far ends read [MB]"] < plain["far ends read [MB]"] for row in cached)
    assert all(row["batches [MB]"] == plain["batches [MB]"] > first["batches [MB]"] for row in cached)
    assert [row["links kept"] == "100%" for row in quality.rows] == [True, False, True, False, True]
    assert all(0 < value <= 1 for row in quality.rows for values in row["runs"] for value in values)
    one = quality.rows[0]["runs"]
    assert abs(one[0][0] - one[1][0]) < 0.01 and abs(one[2][0] - one[3][0]) < 0.01  # one part is the whole graph
    for table in (cost, quality):
        run.remember(tmp_path, table, "full", run.machine())
        again = run.last(tmp_path, table.name)
        assert again is not None and again.markdown() == table.markdown() and not again.alone()
