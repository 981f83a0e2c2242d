# Two commands do all set-up: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread for each test process: two processes that both use two threads are slower than one.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: demo test check format bench clean

demo: $(VENV)/.installed  ## rank three small backbones on the embedded digits, with all four probes; no download
	$(BIN)/backbench rank digits --models pixels,tiny_cnn,tiny_vit --methods knn,centroid,ridge,logistic
	@echo
	@echo "Now your own images, a folder with one folder for each class:"
	@echo "    $(BIN)/backbench rank YOUR_FOLDER"

test: $(VENV)/.installed-dev  ## all tests
	$(PYTEST)

check: $(VENV)/.installed-dev  ## what every commit passes: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

format: $(VENV)/.installed-dev  ## rewrite the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev  ## backbench beside its peers, in one run; tables go to benchmarks/results
	$(BIN)/python benchmarks/heads.py --out benchmarks/results/heads.md
	$(BIN)/python benchmarks/features.py --out benchmarks/results/features.md
	$(BIN)/python benchmarks/startup.py --out benchmarks/results/startup.md

clean:  ## remove what the commands above made, but not run records
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "backbench needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
