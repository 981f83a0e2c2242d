# Two commands do all set-up: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Small real images and weights, beside the checkout.
SHARED ?= ../shared
# One thread for each test process: two processes that both use two threads are slower than one.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

.PHONY: demo test check stress picture browser format bench report screenshots clean

demo: $(VENV)/.installed  ## rank the included backbones on the embedded digits, fine-tune the best; no download
	$(BIN)/backbench rank digits --models pixels,tiny_cnn.cifar100,tiny_vit.cifar100 \
	  --methods knn,centroid,ridge,logistic,two-phase --top 1
	@echo
	@echo "Now your own images, a folder with one folder for each class:"
	@echo "    $(BIN)/backbench rank YOUR_FOLDER"

test: $(VENV)/.installed-dev browser  ## all tests
	$(PYTEST)

check: $(VENV)/.installed-dev browser  ## what every commit passes: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

stress: $(VENV)/.installed-dev browser  ## all tests, those on drawn cases with ten times as many, others in each run
	BACKBENCH_TEST_SCALE=10 $(PYTEST)

# The tests of pages need a Chromium; without one, and without the right to install it, they are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || test -n "$$BACKBENCH_CHROMIUM" || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium: the tests of pages will be skipped (apt install chromium)"

format: $(VENV)/.installed-dev  ## rewrite the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev  ## backbench beside its peers, in one run; tables go to benchmarks/results
	$(BIN)/python benchmarks/heads.py --out benchmarks/results/heads.md
	$(BIN)/python benchmarks/features.py --out benchmarks/results/features.md
	$(BIN)/python benchmarks/startup.py --out benchmarks/results/startup.md
	$(BIN)/python benchmarks/report.py --out benchmarks/results/report.md

REPORT_MODELS := mobilenetv2_100 resnet18_to_layer3 squeezenet1_1 vit_tiny_patch16_224
# Those that are kept as bundles too: they explain images on the page, and are tried in `make screenshots`.
SERVED := mobilenetv2_100 vit_tiny_patch16_224
comma := ,
space := $(subst ,, )

report: $(VENV)/.installed  ## one page on real runs: four backbones and three included ones x 3 methods on two data sets
	for data in caltech-mini cifar10-mini; do $(BIN)/backbench rank $(SHARED)/data/$$data --out runs/report \
	  --models $(subst $(space),$(comma),$(REPORT_MODELS:%=$(SHARED)/weights/%.toml)),pixels,tiny_cnn.cifar100,tiny_vit.cifar100 \
	  --methods knn,centroid,logistic || exit 1; done
	for model in $(SERVED); do $(BIN)/backbench adapt $(SHARED)/data/caltech-mini --out runs/report --method logistic \
	  --model $(SHARED)/weights/$$model.toml --quiet >/dev/null || exit 1; done
	$(BIN)/backbench report runs/report -o runs/report.html

screenshots: $(VENV)/.installed-dev  ## the report and the serving page, light and dark, desktop and phone, in runs/screenshots/
	test -f runs/report.html || $(MAKE) report
	$(BIN)/python tools/screenshots.py runs/report.html runs/screenshots --serve runs/report/*.bundle

PICTURED := mobilenetv2_100 vit_tiny_patch16_224 resnet18_to_layer3 squeezenet1_1

picture: $(VENV)/.installed-dev browser  ## the ranking that README shows, and its plot docs/ranking.png
	$(BIN)/backbench rank $(SHARED)/data/cifar10-mini --out runs/picture --methods knn,logistic \
	  --models $(subst $(space),$(comma),$(PICTURED:%=$(SHARED)/weights/%.toml))
	$(BIN)/backbench report runs/picture -o runs/picture.html
	$(BIN)/python tools/screenshots.py runs/picture.html docs --ranking

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
