# Two commands matter: `make demo` (train a small Pico and let it write) and `make test` (everything that must hold).
PYTHON ?= python3
# An environment is a folder and an extra of pyproject.toml: the targets below work in any, as `make test-nbdev3` shows.
VENV ?= .venv
EXTRA ?= dev
BIN := $(VENV)/bin
# Two test workers on two cores: torch threads that fight for cores are several times slower than one thread each.
ONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
TIMED := $(BIN)/python tests/timed.py

.PHONY: demo test lint test-slow test-nbdev3 test-browser tried export refresh book docs links model wheel clean

demo: $(VENV)/.ok
	$(BIN)/pico-train runs/demo stories --preset nano --max_minutes 3 --context_len 2048 --batch_size 1 --repeats 0.45
	$(BIN)/pico-eval runs/demo --max_bytes 50000
	@$(BIN)/python nbs/experiments/demo.py --tell
	@echo; echo "With the latent blocks, routed bytes marked:"; echo
	$(BIN)/pico-generate runs/demo --prompt "Once upon a time" --max_bytes 600 --temperature 0.5
	@echo; echo "The same prompt with the latent blocks off:"; echo
	$(BIN)/pico-generate runs/demo --prompt "Once upon a time" --max_bytes 300 --temperature 0.5 --no_latent

test: $(VENV)/.ok
	$(TIMED) $(BIN)/ruff check
	$(TIMED) $(BIN)/mypy
	$(TIMED) $(BIN)/python tests/check_sync.py
	$(ONE) $(TIMED) $(BIN)/python tests/nbdev_command.py test --n_workers 2
	$(ONE) $(TIMED) $(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.ok
	$(BIN)/ruff check

test-slow: $(VENV)/.ok
	$(ONE) $(BIN)/python -m pytest -n 2 -q -m slow
	$(ONE) $(BIN)/python tests/nbdev_command.py test --n_workers 1 --flags slow --path nbs/07a_first_pico.ipynb

# The page of chapter 14a in headless browsers. Debian: apt-get install chromium chromium-driver firefox-esr
test-browser: $(VENV)/.ok
	$(BIN)/python -m pip install --quiet selenium
	PICO_BROWSER=1 $(ONE) $(BIN)/python -m pytest -q tests/test_browser.py

# What `make test` does, counted: the result becomes a row of CONTRIBUTING's table.
tried: $(VENV)/.ok
	$(ONE) $(BIN)/python tests/tried.py

# The same in an environment of its own, with the newest nbdev, fastcore and torch (several gigabytes).
test-nbdev3:
	$(MAKE) tried VENV=.venv-nbdev3 EXTRA=nbdev3

# A chapter is changed in its notebook, exported, and run again so that its stored outputs are true: make refresh NB=05_router
NB ?= *
export: $(VENV)/.ok
	$(BIN)/python tests/nbdev_command.py export
	$(BIN)/python -c "from pico.show import export_parts; export_parts()"

refresh: export
	$(ONE) $(BIN)/jupyter nbconvert --to notebook --execute --inplace nbs/$(NB).ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams nbs/$(NB).ipynb
	$(BIN)/python tests/nbdev_command.py clean

book: refresh

# The book as a site, in _docs: chapters, reference, the live page. Every link within it is followed.
docs: $(VENV)/.ok
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(ONE) $(BIN)/python docs/build.py
	$(BIN)/linkchecker --no-status --no-warnings _docs/index.html

# The address in settings.ini changed: the chapters' links to Colab and Binder follow it.
links: $(VENV)/.ok
	$(BIN)/python tests/links.py

# The trained model that comes with the package: an hour and a half, stopped and started again at will.
model: $(VENV)/.ok
	$(BIN)/python nbs/experiments/bundle.py

wheel: $(VENV)/.ok
	$(BIN)/python -m build --wheel

# Keyed on pyproject.toml: a change of dependencies reinstalls, nothing else does.
$(VENV)/.ok: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRA)]'
	touch $@

clean:
	rm -rf build dist *.egg-info _docs
