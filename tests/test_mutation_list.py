"""The list of mutations and docs/invariants.md agree with each other and with the code."""

from pathlib import Path

import mutations
import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: f"{m.rule}-{m.file}")
def test_every_mutation_still_applies(mutation):
    assert mutations.problem(mutation, REPO) is None
    file, name = mutation.test.split("::")
    assert f"def {name}(" in (REPO / file).read_text(encoding="utf-8")


def test_the_table_of_the_document_is_the_list():
    text = (REPO / "docs" / "invariants.md").read_text(encoding="utf-8")
    assert text.endswith("|---|---|---|---|---|\n" + "".join(m.row() + "\n" for m in mutations.MUTATIONS))


def test_every_rule_has_a_mutation():
    assert {m.rule.split()[0] for m in mutations.MUTATIONS} >= {str(i) for i in range(1, 11)}
