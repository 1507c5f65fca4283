"""The command line where something is wrong: bad input, wrong usage, interruption; the exit codes of ``hasp --help``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import SOURCE, run
from typer.testing import CliRunner

from hasp import console
from hasp.cli import app


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "parts"
    run("build", SOURCE, out, "--num-parts", 3)
    return out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["plan", SOURCE], "give --num-parts, --max-part-bytes or --gpu-memory"),
        (["plan", "nowhere", "--num-parts", 2], "nowhere does not exist"),
        (["plan", SOURCE, "--num-parts", 0], "at least 1 part"),
        (["plan", SOURCE, "--num-parts", 301], "more than the 300 entities of title; lower num_parts"),
        (["plan", SOURCE, "--num-parts", 2, "--gpu-memory", "1GB"], "give one of them"),
        (["plan", SOURCE, "--num-parts", 2, "--sample", "genre"], "--sample is <node type>=<nodes per part>"),
        (["plan", SOURCE, "--num-parts", 2, "--eel", "title-to-title"], "<source>__<relation>__<destination>"),
        (["plan", SOURCE, "--num-parts", 2, "--entity", "film"], "the schema names the node type 'film'"),
        (["plan", SOURCE, "--max-part-bytes", "10B"], "every part repeats"),
        (["build", SOURCE, "OUT", "--num-parts", 2, "--verify", "all"], "--verify is none, files or source"),
        (["build", SOURCE, "OUT", "--num-parts", 2, "--backend", "magic"], "magic"),
        (["build", SOURCE, "OUT", "--num-parts", 2, "--weight", "none"], "weight"),
        (["report", "OUT"], "OUT"),
        (["verify", "OUT"], "OUT"),
        (["export", "PARTS", "OUT.txt"], "exported as .csv or .parquet"),
        (["export", "PARTS", "OUT", "--part", 3], "part=3 is not in 0..2"),
        (["report", "PARTS", "--verify", "maybe"], "maybe"),
        (["generate", "OUT", "--titles", -1], "num_titles"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(args, message, parts, tmp_path):
    args = [str(parts) if a == "PARTS" else str(tmp_path / a) if str(a).startswith("OUT") else a for a in args]
    _, err = run(*args, code=2)
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and message.replace("OUT", str(tmp_path)) in line, err
    assert not (tmp_path / "OUT" / "manifest.json").exists()


@pytest.mark.parametrize("args", [["plan"], ["plan", SOURCE, "--num-parts", "many"], ["paint"], ["plan", SOURCE, "--colour"]])
def test_wrong_usage_is_exit_code_two(args):
    _, err = run(*args, code=2)
    assert "Usage:" in err


def test_debug_shows_where_an_error_comes_from():
    result = CliRunner().invoke(app, ["--debug", "plan", "nowhere", "--num-parts", "2"])
    assert result.exit_code == 2 and "Traceback" in result.stderr and "error: nowhere" in result.stderr


def test_interruption_and_surprise(monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hasp.build.build", stop)
    _, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 2, code=130)
    assert err.endswith("interrupted; run again to resume\n")

    def surprise(*args, **kwargs):
        raise RuntimeError("never seen")

    monkeypatch.setattr("hasp.build.build", surprise)
    _, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 2, code=1)
    assert "unexpected RuntimeError: never seen" in err

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "part-00000.safetensors")

    monkeypatch.setattr("hasp.build.build", full)
    _, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 2, code=2)
    assert "error: [Errno 28] No space left on device" in err


def test_too_little_memory_is_refused_before_the_build(monkeypatch, tmp_path):
    monkeypatch.setattr("hasp.plan.available_memory", lambda: 1000)
    _, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 2, code=2)
    assert "1.0 kB of memory is free" in err and not (tmp_path / "p").exists()


def test_a_bar_appears_only_on_a_terminal_and_only_late(monkeypatch):
    started = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: started.append(1))
    monkeypatch.setattr("rich.progress.Progress.stop", lambda self: started.append(0))

    def once(delay: float, terminal: bool, wait: bool) -> list[int]:
        started.clear()
        monkeypatch.setattr(console, "_DELAY", delay)
        monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: terminal))
        with console.Bar() as bar:
            bar("cut", 1, 2)
            if wait:
                bar._timer.join()
        return list(started)

    assert once(0.0, terminal=True, wait=True) == [1, 0]
    assert once(3600.0, terminal=True, wait=False) == [0]
    assert once(0.0, terminal=False, wait=False) == []


def test_a_real_process(tmp_path):
    def hasp(*args: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "hasp.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = hasp("build", SOURCE, tmp_path / "p", "--num-parts", 2, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["report"]["num_parts"] == 2
    done = hasp("verify", tmp_path / "p", "--source", SOURCE)
    assert done.returncode == 0 and "nothing is wrong" in done.stdout
    done = hasp("report", tmp_path / "none")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert hasp("build").returncode == 2


def test_help_imports_nothing_heavy():
    code = "import sys, hasp.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'pymetis')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_build_with_reverse_types_is_verified_without_saying_so(tmp_path):
    run("build", SOURCE, tmp_path / "parts", "--num-parts", 2, "--reverse")
    assert "nothing is wrong" in run("verify", tmp_path / "parts", "--source", SOURCE)[0]
    out, err = run("verify", tmp_path / "parts", "--source", SOURCE, "--exclude", "genre", code=2)
    assert "num_nodes of the source differ: genre absent (stored " in out and "--exclude, --reverse" in out
    assert "title__has_genre__genre absent" in out and "title__has_tone__tone" not in out.split("num_edges")[1].split("more")[0]
    assert "if this is the source of the parts" in err


def test_a_missing_extra_leaves_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaminpar", None)  # cannot be imported
    built = tmp_path / "parts"
    run("build", SOURCE, built, "--num-parts", 2)
    before = {p.name: p.read_bytes() for p in built.iterdir()}
    err = run("build", SOURCE, built, "--num-parts", 2, "--backend", "kaminpar", "--overwrite", code=2)[1]
    assert "hasp-pyg[kaminpar]" in err and {p.name: p.read_bytes() for p in built.iterdir()} == before
    run("build", SOURCE, tmp_path / "new", "--num-parts", 2, "--backend", "kaminpar", code=2)
    assert not (tmp_path / "new").exists()


def test_options_are_spelled_as_in_a_shell(parts):
    err = run("build", SOURCE, parts, "--num-parts", 2, code=2)[1]
    assert "use --overwrite, or another folder" in err and "overwrite=" not in err


def test_a_reader_that_has_seen_enough_ends_nothing(parts):
    ask = [sys.executable, "-m", "hasp", "report", str(parts)]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None and asked.stderr is not None
        asked.stdout.close()
        assert asked.stderr.read() == b"" and asked.wait() == 0
