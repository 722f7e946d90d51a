# The two commands of the README. Each makes its own virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test tiny-star tiny-star-decoder photographs

demo: $(VENV)/.installed
	mkdir -p out
	$(BIN)/star-jax upscale assets/sample.mp4 -o out/sample_x4.mp4 --compare assets/sample_truth.mp4

test: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n 2 --dist loadfile && wait $$types

# Trains the model of star_jax/weights from nothing on made-up scenes (docs/tiny_star.md); run again, it resumes.
tiny-star: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[scenes]"
	mkdir -p out/tiny-star
	$(BIN)/star-jax train-vae --config configs/tiny_star_vae.py --workdir out/tiny-star/vae
	$(BIN)/star-jax train --config configs/tiny_star.py --workdir out/tiny-star/network \
	    --config.model.checkpoint=out/tiny-star/vae/checkpoint
	$(BIN)/star-jax assemble out/tiny-star/network out/tiny-star/first --force
	$(BIN)/star-jax train --config configs/tiny_star.py:longer --workdir out/tiny-star/longer \
	    --config.model.checkpoint=out/tiny-star/first
	$(BIN)/star-jax assemble out/tiny-star/longer out/tiny-star/checkpoint --dtype bfloat16 --force

# Trains a light decoder for that model; run again, it resumes.
tiny-star-decoder: photographs
	$(BIN)/pip install --quiet -e ".[scenes,metrics]"
	$(BIN)/star-jax train-decoder --config configs/tiny_star_decoder.py --workdir out/tiny-star/decoder \
	    --config.data.source=scenes:20000:out/photographs

# Photographs of Debian packages, reduced to what they show in detail; nothing is installed. Needs apt and dpkg.
photographs: $(VENV)/.installed out/unpacked/.complete
	$(BIN)/python -m star_jax.data.made_up.photographs out/unpacked out/photographs

out/unpacked/.complete: | $(VENV)/.installed
	mkdir -p out/packages out/unpacked
	cd out/packages && apt-get download $$(../../$(BIN)/python -m star_jax.data.made_up.photographs --packages)
	for package in out/packages/*.deb; do dpkg-deb -x $$package out/unpacked || exit 1; done
	touch $@

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.installed-test: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[test]"
	touch $@ $(VENV)/.installed
