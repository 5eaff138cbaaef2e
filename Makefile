# Two commands matter: `make demo` (train a small Pico and let it write) and `make test` (everything that must hold).
PYTHON ?= python3
BIN := .venv/bin
# Two test workers on two cores: torch threads that fight for cores are several times slower than one thread each.
ONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test lint test-slow test-browser export refresh book model wheel clean

demo: .venv/.ok
	$(BIN)/pico-train runs/demo stories --preset nano --max_minutes 3
	$(BIN)/pico-eval runs/demo --max_bytes 50000
	@$(BIN)/python nbs/experiments/demo.py --tell
	@echo; echo "With the latent blocks, routed bytes marked:"; echo
	$(BIN)/pico-generate runs/demo --prompt "Once upon a time" --max_bytes 600 --temperature 0.5
	@echo; echo "The same prompt with the latent blocks off:"; echo
	$(BIN)/pico-generate runs/demo --prompt "Once upon a time" --max_bytes 300 --temperature 0.5 --no_latent

test: .venv/.ok
	$(BIN)/ruff check
	$(BIN)/python tests/check_sync.py
	$(ONE) $(BIN)/nbdev_test --n_workers 2
	$(ONE) $(BIN)/python -m pytest -n 2 -q

lint: .venv/.ok
	$(BIN)/ruff check

test-slow: .venv/.ok
	$(ONE) $(BIN)/python -m pytest -n 2 -q -m slow

# The page of chapter 14 in headless browsers. Debian: apt-get install chromium chromium-driver firefox-esr
test-browser: .venv/.ok
	$(BIN)/python -m pip install --quiet selenium
	PICO_BROWSER=1 $(ONE) $(BIN)/python -m pytest -q tests/test_browser.py

# A chapter is changed in its notebook, exported, and run again so that its stored outputs are true: make refresh NB=05_router
NB ?= *
export: .venv/.ok
	$(BIN)/nbdev_export
	$(BIN)/python -c "from pico.show import export_parts; export_parts()"

refresh: export
	$(ONE) $(BIN)/jupyter nbconvert --to notebook --execute --inplace nbs/$(NB).ipynb
	$(BIN)/nbdev_clean

book: refresh

# The trained model that comes with the package: about an hour, stopped and started again at will.
model: .venv/.ok
	$(BIN)/python nbs/experiments/bundle.py

wheel: .venv/.ok
	$(BIN)/python -m build --wheel

# Keyed on pyproject.toml: a change of dependencies reinstalls, nothing else does.
.venv/.ok: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf build dist *.egg-info _docs
