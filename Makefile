# Two commands: `make demo` and `make test`. Both do all the set-up on a machine that has Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
OLDEST = .venv-oldest
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: demo test check bench oldest clean

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

# By hand, with PYTHON=python3.10: what users of older versions get. An old torch brings gigabytes of CUDA.
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n auto --dist loadfile -m "not ray"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[parquet]' pytest pytest-xdist hypothesis
	touch $(OLDEST)/.ready

clean:
	rm -rf $(VENV) $(OLDEST) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
