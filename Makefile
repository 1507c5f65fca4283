# Two commands: `make demo` and `make test`. Both do all the set-up on a machine that has Python and nothing else.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: demo test check bench clean

demo: $(READY)
	$(RUN) -m hasp_models demo --out demo

test: check
	$(RUN) -m pytest -n auto --dist loadfile -m "not ray"
	$(RUN) -m pytest -m ray

check: $(READY)
	$(RUN) -m ruff check hasp hasp_models tests bench
	$(RUN) -m ruff format --check hasp hasp_models tests bench
	$(RUN) -m mypy

bench: $(READY)
	$(RUN) -m bench

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
