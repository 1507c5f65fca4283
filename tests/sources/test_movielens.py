"""MovieLens' own files, made small; co-engagement against a naive double loop."""

from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import HaspError, InvalidGraph
from hasp.sources import open_source
from hasp.sources.movielens import CoEngagement, co_engagement, read_movielens

MOVIES = [
    (1, "Toy Story (1995)", "Animation|Comedy"),
    (5, "Heat, The (1995) ", "Crime"),
    (9, "Show (2009– )", "Comedy"),
    (7, "Untitled", "(no genres listed)"),
]
RATINGS = [(u, m, 4.0, 0) for u in range(4) for m in (1, 5)] + [(9, 9, 5.0, 0), (9, 1, 3.0, 0), (10, 7, 4.5, 0)]
TAGS = [(1, 1, "Pixar", 0), (2, 1, "pixar ", 0), (3, 9, "PIXAR", 0), (3, 9, "pixar", 0), (1, 5, "rare", 0)]


def lay_csv(folder: Path) -> Path:
    def write(name: str, header: str, rows) -> None:
        lines = [",".join(f'"{c}"' if isinstance(c, str) else str(c) for c in row) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    write("movies", "movieId,title,genres", MOVIES)
    write("ratings", "userId,movieId,rating,timestamp", RATINGS)
    write("tags", "userId,movieId,tag,timestamp", TAGS)
    return folder


def test_concepts_and_links_of_the_csv_files(tmp_path: Path) -> None:
    graph = open_source(lay_csv(tmp_path))
    graph.check()
    assert graph.num_nodes == {"title": 4, "decade": 2, "genre": 3, "tag": 1}
    assert graph.ids["title"].tolist() == [1, 5, 9, 7] and graph.names["title"][1] == "Heat, The (1995) "
    assert graph.names["decade"].tolist() == ["1990s", "2000s"]
    assert graph.names["genre"].tolist() == ["Animation", "Comedy", "Crime"] and graph.names["tag"].tolist() == ["pixar"]
    pairs = {e[1]: np.stack([s.numpy(), d.numpy()]).T.tolist() for e, (s, d) in graph.edges.items()}
    assert pairs["has_decade"] == [[0, 0], [1, 0], [2, 1]]
    assert pairs["has_genre"] == [[0, 0], [0, 1], [1, 2], [2, 1]]
    assert pairs["has_tag"] == [[0, 0], [2, 0]]
    # 4 of the 6 users who like anything like both: cosine 1, lift 4 * 6 / (4 * 4) = 1.5, below 2
    assert pairs["co_engaged"] == []
    linked = read_movielens(tmp_path, co_engaged=CoEngagement(min_lift=1.5), entity="movie")
    assert [e.tolist() for e in linked.edges["movie", "co_engaged", "movie"]] == [[0, 1], [1, 0]]
    assert read_movielens(tmp_path, min_tag_users=4).num_nodes["tag"] == 0


def test_the_dat_files_of_older_releases(tmp_path: Path) -> None:
    for name, rows in (("movies", MOVIES[:2]), ("ratings", RATINGS[:8])):
        (tmp_path / f"{name}.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in rows), encoding="latin-1")
    (tmp_path / "movies.dat").write_bytes(
        (tmp_path / "movies.dat").read_bytes() + "3::Café, Le (2001)::Drama\n".encode("latin-1")
    )
    graph = open_source(tmp_path)
    assert graph.names["title"][2] == "Café, Le (2001)" and "tag" not in graph.num_nodes
    with (tmp_path / "ratings.dat").open("a") as stream:
        stream.write("1::5::3\n")
    with pytest.raises(InvalidGraph, match=r"ratings.dat, line 9: every row has 4 cells, got 3"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings", "userId,movieId,rating\n1,6,4.0\n", r"ratings.csv, column 'movieId': .*\(row 0: 6\)"),
        ("tags", "userId,movieId,tag\n1,6,a\n", r"tags.csv, column 'movieId': .*\(row 0: 6\)"),
        ("ratings", "userId,movieId\n1,1\n", "has a column 'rating', got"),
        ("movies", "movieId,title\n1,a\n", "has a column 'genres', got"),
    ],
)
def test_what_broken_files_get(tmp_path: Path, name: str, text: str, message: str) -> None:
    (lay_csv(tmp_path) / f"{name}.csv").write_text(text)
    with pytest.raises(InvalidGraph, match=message):
        read_movielens(tmp_path)
    (tmp_path / f"{name}.csv").unlink()
    if name != "tags":
        with pytest.raises(InvalidGraph, match=f"MovieLens has {name}.csv"):
            read_movielens(tmp_path)


def naive(likes: list[tuple[int, int]], rule: CoEngagement) -> set[tuple[int, int]]:
    fans: dict[int, set[int]] = {}
    for user, item in likes:
        fans.setdefault(item, set()).add(user)
    users = len({user for user, _ in likes})
    near: dict[int, list[tuple[float, int]]] = {item: [] for item in fans}
    for a, b in combinations(sorted(fans), 2):
        both, chance = len(fans[a] & fans[b]), len(fans[a]) * len(fans[b])
        cosine = both / sqrt(chance)
        if both >= rule.min_count and cosine >= rule.min_cosine and both * users >= rule.min_lift * chance:
            near[a].append((-cosine, b))
            near[b].append((-cosine, a))
    kept = {(item, other) for item, found in near.items() for _, other in sorted(found)[: rule.top]}
    return {(min(p), max(p)) for p in kept}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), max_size=60),
    st.builds(
        CoEngagement,
        min_count=st.integers(1, 3),
        min_cosine=st.sampled_from([0.0, 0.3, 0.6]),
        min_lift=st.sampled_from([0.0, 1.0, 1.5]),
        top=st.integers(1, 3),
    ),
    st.sampled_from([1, 7, 1 << 24]),
)
def test_co_engagement_is_the_naive_one_in_blocks_of_any_size(likes, rule, products) -> None:
    user, item = (np.array([pair[i] for pair in likes], np.int64) for i in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hasp.sources.movielens._PRODUCTS", products)
        a, b = co_engagement(user, item, 8, rule)
    got = list(zip(a.tolist(), b.tolist(), strict=True))
    assert got == sorted(naive(likes, rule))


def test_settings_out_of_range() -> None:
    with pytest.raises(HaspError, match="top=0: at least 1"):
        CoEngagement(top=0)


def test_equal_cosines_are_ranked_by_id() -> None:
    user, item = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)  # three users who all like the same four
    a, b = co_engagement(user, item, 4, CoEngagement(min_count=1, min_lift=0.0, top=1))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3)]
