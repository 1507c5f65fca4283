"""The page: whole, silent, quiet, and drawn by a real browser where there is one."""

import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser

import pytest
from test_report import a_report

from hasp.charts import MAX_BARS, Line, Series, bars, histogram, share_bar
from hasp.report import Report
from hasp.report_html import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]


def with_parts(n: int) -> Report:
    return Report(
        n,
        {"title": 3 * n, "genre": 2},
        {"title": "entity", "genre": "semantic"},
        {"title__co__title": 9 * n, "title__has__genre": 2 * n},
        {"title__co__title": "eel", "title__has__genre": "entity-semantic"},
        {"title": [3] * n},
        {"title__co__title": [5 + p % 3 for p in range(n)], "title__has__genre": [2] * n},
        {"title__co__title": 9 * n - sum(5 + p % 3 for p in range(n))},
        [2] * n,
        [[1, 1, 0]] * n,
        part_bytes=[1000 + 7 * p % 90 for p in range(n)],
        shared_bytes=500,
        loaded_bytes=[3000 + 7 * p % 90 for p in range(n)],
        predicted={"part_bytes": 3200, "peak_build_bytes": 10_000},
    )


class Outline(HTMLParser):
    """Checks that tags close in order and collects links and texts."""

    VOID = ("meta", "link", "br", "rect", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.links, self.tags, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src", "action", "data") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    "report", [a_report(), with_parts(1), with_parts(MAX_BARS), with_parts(4096)], ids=lambda r: r.num_parts
)
def test_one_file_without_scripts_or_requests(report):
    page = render(report)
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert "script" not in outline.tags and "img" not in outline.tags
    assert outline.links == ["data:,"]
    assert not re.search(r"https?:|url\(|@import", page)
    assert page.count("<svg") == page.count('role="img" aria-label="') == 4
    assert len(page) < 400_000


def test_the_figures_are_on_it():
    outline = Outline()
    outline.feed(render(a_report(measured={"peak_build_bytes": 8000, "seconds": {"cut": 0.25}})))
    text = " ".join(outline.texts)
    for figure in ("80.0\u00a0%", "edge cut 20.0\u00a0%", "title → based_on → game", "50.0\u00a0%", "5.1 kB", "8.0 kB", "0.25"):
        assert figure in text, figure


def test_names_are_escaped():
    bad = '<script>alert("x")&'
    report = with_parts(2)
    report = Report(
        **{
            **report.to_json(),
            "num_nodes": {"title": 6, bad: 2},
            "node_roles": {"title": "entity", bad: "semantic"},
            "num_edges": {f"title__has__{bad}": 4},
            "edge_roles": {f"title__has__{bad}": "entity-semantic"},
            "edges": {},
            "cut": {},
        }
    )
    page = render(report)
    assert "<script" not in page and "&lt;script&gt;" in page


def test_many_parts_become_a_histogram_that_counts_them_all():
    values = [10, 10, 11, 500, 999, 1000, 1000]
    drawing = histogram("sizes", values, line=Line("predicted", 1100))
    assert sum(int(n) for n in re.findall(r"<title>(\d+) parts from", drawing)) == len(values)
    assert "predicted 1.1k" in drawing
    assert histogram("equal", [7, 7]).count("<rect") == 1


def test_bars_have_one_tooltip_each_and_stand_on_each_other():
    drawing = bars("x", [Series("a", "c0", [1, 3]), Series("b", "c1", [2, 1])], line=Line("predicted", 5))
    assert re.findall(r"<title>(.*?)</title>", drawing) == ["part 0: a 1; b 2", "part 1: a 3; b 1"]
    rects = [tuple(map(float, r)) for r in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', drawing)]
    assert rects[1][0] + rects[1][1] == pytest.approx(rects[0][0], abs=0.02)  # b ends where a begins
    assert rects[2][1] == pytest.approx(3 * rects[0][1], abs=0.02)
    assert re.findall(r"<title>(.*?)</title>", share_bar("s", [Series("a", "c0", [1]), Series("b", "c1", [3])])) == [
        "a: 1 (25.0 %)",
        "b: 3 (75.0 %)",
    ]


def chromium(tmp_path, page, *flags):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    profile = tmp_path / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("num_parts", [8, 4096])
def test_a_browser_opens_it_without_a_complaint(tmp_path, num_parts):
    page = with_parts(num_parts).to_html(tmp_path / "report.html")
    log = tmp_path / "net.json"
    done = chromium(tmp_path, page, f"--log-net-log={log}", "--dump-dom")
    assert f"<h1>{num_parts:,} parts</h1>" in done.stdout and "</html>" in done.stdout
    assert done.stdout.count("<svg") == 4
    assert "CONSOLE" not in done.stderr, done.stderr
    assert asked_by_a_page(log) == set()


def test_a_browser_notices_a_page_that_complains_or_asks(tmp_path):
    """The test above can fail: the same flags show a console message and a request where there is one."""
    page, log = tmp_path / "bad.html", tmp_path / "net.json"
    page.write_text("<!doctype html><title>x</title><img src='http://127.0.0.1:9/x.png'><script>console.error('seen')</script>")
    assert "CONSOLE" in chromium(tmp_path, page, f"--log-net-log={log}", "--dump-dom").stderr
    assert asked_by_a_page(log) != set()


def asked_by_a_page(log) -> set[str]:
    """Who asked for something, by the browser's own log; what the browser asks for itself has no origin."""
    return set(re.findall(r'"initiator":"([^"]*)"', log.read_text())) - {"not an origin"}


@pytest.mark.parametrize("size", [(1200, 900), (390, 844)])
def test_a_browser_draws_it(tmp_path, size):
    page = with_parts(8).to_html(tmp_path / "report.html")
    image = tmp_path / "page.png"
    chromium(tmp_path, page, f"--window-size={size[0]},{size[1]}", f"--screenshot={image}")
    data = image.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == size
    assert len(data) > 10_000  # an empty page of this size compresses to less


def test_what_is_not_finite_and_who_made_the_parts_are_said_in_words():
    page = render(a_report(not_finite={"title.<x>": [1200, 3]}), "by <me>")
    assert "Not finite: title.&lt;x&gt;: 1,200 NaN, 3 infinite." in page and "by &lt;me&gt;" in page
    assert "Not finite" not in render(a_report())
