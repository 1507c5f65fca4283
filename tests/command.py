"""The command ``hasp`` called in this process."""

from typer.testing import CliRunner

from hasp.cli import app

SOURCE = "synthetic:300:1"


def run(*args: object, code: int = 0):
    """Call a command; returns (standard output, standard error)."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr
