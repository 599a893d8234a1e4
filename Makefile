# The commands of the project, each of which installs what it needs first, bytecode too: where Python may not write its
# own, every process would compile all it imports (2.6 times the CPU time of a small search).
#   make search        the main job
#   make quick         what to run while working: lint, types, tests that start no process and take under 1 s
#   make test          all of that and every other test that takes no more than 25 s
#   make test-all      all tests: what CI runs
#   make policy        a policy linter over the Kubernetes manifests and the Dockerfile
#   make fuzz          10,000 wrong inputs of every entry point (ROUNDS, SEED): minutes of CPU time
#   make chaos         200 small searches (ROUNDS, SEED), killed, cut off and starved until they end: hours of CPU time
#   make docs          the generated pages and tables of README and docs/
#   make test-lowest   the quick tests and one search with the lowest versions that pyproject.toml allows
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
POLICY ?= .venv-policy
ARGS ?=
INSTALL = $(VENV)/bin/uv pip install --quiet --compile-bytecode
# Each test or group by itself, the longest first (tests/conftest.py): two workers end together.
PYTEST = -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder
# Bytecode of the project and its tests is kept, also where the environment forbids it: 12 CPU s of a quick run.
RUN = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
QUICK = not process and not slow and not gpu
# mypy uses one core for 17 s where it has no cache.
BESIDE = $(MAKE) --no-print-directory -j 2 types tests

SEED ?= 0

.PHONY: search quick test test-all tests test-lowest lint types fuzz chaos docs policy clean
search: $(VENV)/.installed
	$(VENV)/bin/tuner search --method srat $(ARGS)

quick: lint
	$(BESIDE) ONLY="$(QUICK)"

test: lint
	$(BESIDE) ONLY="not long"

test-all: lint
	$(BESIDE)

tests: $(VENV)/.installed-test
	$(RUN) $(VENV)/bin/python $(PYTEST) -m "$(ONLY)" $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-test
	$(VENV)/bin/mypy

fuzz: ROUNDS ?= 10000
fuzz: $(VENV)/.installed-test
	$(RUN) $(VENV)/bin/python -W ignore -m tests.fuzz --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

chaos: ROUNDS ?= 200
chaos: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

# What docs/ and README take from the code: cards and table of the methods, pages of recorded results.
docs: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks.pages

# checkov in an environment of its own: it pins libraries that the project has in other versions.
policy: $(VENV)/.installed $(POLICY)/.installed
	$(VENV)/bin/python -m tests.policy $(POLICY)/manifests
	$(POLICY)/bin/checkov -d $(POLICY)/manifests --config-file deploy/kubernetes/policy.yaml
	$(POLICY)/bin/checkov -f Dockerfile --framework dockerfile --quiet --compact --skip-download

test-lowest: $(LOWEST)/.installed
	$(RUN) $(LOWEST)/bin/python $(PYTEST) -m "$(QUICK)" $(ARGS)
	$(LOWEST)/bin/tuner search --method srat --trials 2 --max-epochs 2 --set passes=1 --max-concurrent 1 \
	    --home $(LOWEST)/tuner-home --name lowest-$$(date +%s)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	$(INSTALL) --python $(VENV)/bin/python -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --python $(VENV)/bin/python -c constraints.txt -e '.[test]'
	touch $@

$(LOWEST)/.installed: pyproject.toml $(VENV)/.installed
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(INSTALL) --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[test]'
	touch $@

$(POLICY)/.installed: $(VENV)/.installed
	test -x $(POLICY)/bin/python || $(PYTHON) -m venv $(POLICY)
	$(INSTALL) --python $(POLICY)/bin/python checkov==3.3.30
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(POLICY) build dist *.egg-info
