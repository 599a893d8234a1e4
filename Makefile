# Two commands: `make search` runs the main job, `make test` the whole test suite. Both install what they need first,
# bytecode too: where Python may not write its own, every process would compile all it imports (2.6 times the CPU time
# of a small search).
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
INSTALL = $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python -c constraints.txt

.PHONY: search test lint clean
search: $(VENV)/.installed
	$(VENV)/bin/tuner search --method srat $(ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
