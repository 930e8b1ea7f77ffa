# Every target sets up what it needs; see README.md.
.PHONY: setup demo up test check bench clean lock reference

PYTEST_ARGS ?=
# Half of what the tests do is waiting, so one worker more than there are cores. A file stays with one worker.
TEST_WORKERS ?= $(shell echo $$(($$(nproc) + 1)))

setup: .venv/.ready

.venv/.ready: requirements-dev.lock pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh

demo: setup
	@.venv/bin/python scripts/demo.py

up: setup
	@exec .venv/bin/clawplane up

test: setup
	@sh scripts/test_tools.sh
	@.venv/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	@.venv/bin/python -m bench

lock: setup
	.venv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock

reference: setup
	.venv/bin/python scripts/reference.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
