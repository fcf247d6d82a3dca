# Every target sets up its own virtual environment first; nothing else needs to be installed
# than Python 3.11 (or newer) and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := apply cli experiments predictor recorder store
STAMP := $(VENV)/.installed

.PHONY: demo test test-networks test-others lint types check bench bench-recorder bench-sampling bench-forecast bench-jump bench-choices bench-skipping bench-masking docs-reproduction clean

demo: $(STAMP)
	$(BIN)/weightcast demo -o demo

# In two processes, of about the same length: what each prints comes when it ends.
NETWORKS := apply predictor recorder
test: $(STAMP)
	$(MAKE) --jobs=2 --output-sync=target test-networks test-others

test-networks: $(STAMP)
	$(BIN)/python -m pytest $(foreach part,$(NETWORKS),tests/test_$(part)_*.py)

test-others: $(STAMP)
	$(BIN)/python -m pytest $(foreach part,$(NETWORKS),--ignore-glob='*/test_$(part)_*.py')

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see a mapped editable install: give it the packages under their import names.
types: $(STAMP)
	mkdir -p .types/weightcast
	for p in $(PACKAGES); do ln -sfn ../../$$p .types/weightcast/$$p; done
	$(BIN)/mypy $(addprefix -p weightcast.,$(PACKAGES))

check: lint types test

bench: $(STAMP)
	$(BIN)/python benchmarks/pipeline.py

bench-recorder: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/recorder.py

bench-sampling: $(STAMP)
	$(BIN)/python benchmarks/sampling.py

bench-forecast: $(STAMP)
	$(BIN)/python benchmarks/forecast.py

bench-jump: $(STAMP)
	$(BIN)/python benchmarks/jump.py

bench-choices: $(STAMP)
	$(BIN)/python benchmarks/choices.py

bench-skipping: $(STAMP)
	$(BIN)/python benchmarks/skipping.py

bench-masking: $(STAMP)
	$(BIN)/python benchmarks/masking.py

# The documents of the reproduction and of the studies, anew from the numbers beside them.
docs-reproduction: $(STAMP)
	$(BIN)/python -m weightcast.experiments.document docs
	$(BIN)/python -m weightcast.experiments.studies docs

clean:
	rm -rf $(VENV) .types build *.egg-info .pytest_cache .mypy_cache .ruff_cache demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("weightcast needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
