"""The reference says what the code says."""

import re

import pytest
import reference

import hasp
import hasp_models


def test_the_page_is_that_of_the_code():
    found = reference.PAGE.read_text(encoding="utf-8")
    assert found == reference.page(), "run python tests/reference.py"


@pytest.mark.parametrize("module", [hasp, hasp_models])
def test_every_public_name_has_an_entry_and_a_source(module):
    text = reference.package(module.__name__)
    for name in module.__all__:
        assert name.startswith("__") or f"\n### {name}\n" in text
    for path in re.findall(r"\[source\]\(([^)]+)\)", text):
        assert (reference.PAGE.parent / path).is_file()


def test_calls_are_written_as_they_are_made():
    def plain(a, b=2, *rest, c: int = 3, **more):
        """Words of :class:`hasp.Schema`."""

    def keywords(a: "str | None" = None, *, b=len):
        """``x``

        More.
        """

    assert reference.call("plain", plain) == "plain(a, b = 2, *rest, c: int = 3, **more)"
    assert reference.call("keywords", keywords) == "keywords(a: str | None = None, *, b = ...)"
    assert reference.call("keywords", keywords, most=10) == "keywords(\n    a: str | None = None,\n    *,\n    b = ...,\n)"
    assert reference.first(plain) == "Words of `hasp.Schema`." and reference.first(keywords) == "`x`"
