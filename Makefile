# Everything a newcomer needs: `make demo`, `make test`. Tools live in .venv, from hashed locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# More workers than two cores: much of the suite waits. See tests/spread.py.
SPREAD := -n 6 --dist loadfile
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))

.DEFAULT_GOAL := help
.PHONY: fleet help demo test check fuzz mutants bench soak lock clean wheel manifests image image-bench pin sbom dashboard

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements/dev.txt pyproject.toml proxy/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cardcash-proxy needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The tests are compiled once, not by each worker of the first run.
$(VENV)/.compiled: $(STAMP)
	@$(BIN)/python -m pytest -qq --collect-only >/dev/null 2>&1 || true
	@touch $@

demo: $(STAMP) ## simulator and proxy together, with curl lines to paste
	$(BIN)/cardcash-proxy demo

test: $(VENV)/.compiled ## the whole suite; TESTS="tests/core tests/http": less
	$(BIN)/python -m pytest $(SPREAD) $(TESTS)

check: $(STAMP) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(STAMP) ## the whole corpora, and mutations for FUZZ_SECONDS (60) each
	CARDCASH_FUZZ=all CARDCASH_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(BIN)/python -m pytest tests/fuzz -n 2 --dist loadfile

mutants: $(STAMP) ## change core/ and session/ in every place: some test must fail; MUTANTS="proxy.core.token*": less
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

bench: $(STAMP) ## speed beside other proxies that are installed, in under ten minutes; ARGS=--quick: in 90 s
	$(BIN)/python -m bench $(ARGS)

soak: $(STAMP) ## millions of requests, many connections and renewals: nothing may grow; ARGS="--requests 100000": less
	$(BIN)/python -m bench.soak $(ARGS)

image: ## build the container image as IMAGE (cardcash-proxy), with ENGINE (docker, podman or buildah, as installed)
	@test -n "$(ENGINE)" || { echo "no docker, podman or buildah is installed"; exit 1; }
	$(ENGINE) build $(if $(findstring buildah,$(ENGINE)),--format docker --layers) -t $(or $(IMAGE),cardcash-proxy) \
	  --build-arg SOURCE="$$(git config --get remote.origin.url | sed 's|//[^/@]*@|//|')" \
	  --build-arg REVISION="$$(git rev-parse HEAD)$$(git diff --quiet HEAD || echo -dirty)" \
	  --build-arg CREATED="$$(git log -1 --format=%cI)" \
	  $(if $(LICENSES),--build-arg LICENSES="$(LICENSES)") $(ARGS) .

pin: ## write the digest that the base image's tag has today behind the tag in the Dockerfile (needs docker or skopeo)
	@tag=$$(sed -n 's/^ARG PYTHON_IMAGE=\([^@]*\).*/\1/p' Dockerfile) && \
	digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$$tag" 2>/dev/null || \
	  skopeo inspect --format '{{.Digest}}' "docker://docker.io/library/$$tag") && \
	expr "$$digest" : 'sha256:[0-9a-f]\{64\}$$' >/dev/null && \
	sed -i -e "s|^ARG PYTHON_IMAGE=.*|ARG PYTHON_IMAGE=$$tag@$$digest|" \
	  -e "/^#/s/meant on [-0-9]*/meant on $$(date -u +%F)/" Dockerfile && grep '^ARG PYTHON_IMAGE=' Dockerfile

sbom: $(STAMP) ## write dist/sbom.cdx.json: what the proxy runs with, from the lock, as CycloneDX
	@mkdir -p dist
	$(BIN)/python requirements/sbom.py "$$($(BIN)/python -c 'import proxy; print(proxy.__version__)')" > dist/sbom.cdx.json

image-bench: $(STAMP) ## what the image costs at no limit, 1, 0.25 and 0.1 of a core (needs root and buildah)
	$(BIN)/python -m bench.image $(ARGS)

fleet: $(STAMP) ## 50 proxies on one Redis behind Sentinels, and what befalls it; ARGS="--replicas 10 --stopped 10": less
	$(BIN)/python -m bench.fleet $(ARGS)

wheel: $(STAMP) ## build dist/*.whl
	$(BIN)/python -m hatchling build -t wheel

dashboard: $(STAMP) ## config/grafana/dashboard.json from dashboard.py beside it
	$(BIN)/python config/grafana/dashboard.py

lock: ## renew the locks from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade pyproject.toml -o requirements/runtime.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade pyproject.toml --group dev -o requirements/dev.txt

manifests: ## write the alerts of config/prometheus into the PrometheusRule of config/kubernetes
	@rule=config/kubernetes/monitoring/prometheusrule.yaml; { sed '/^spec:/q' $$rule; \
	  sed -n '/^groups:/,$$p' config/prometheus/alerts.yml | sed 's/^./  &/'; } > $$rule.new && mv $$rule.new $$rule

clean: ## remove what make made
	rm -rf $(VENV) .venv-newest dist mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis
