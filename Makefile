# The checks of .ci/run, one by one, in the virtual environment that is active.
.PHONY: setup lint types test docs ci

setup:
	python -m pip install -c constraints.txt -e '.[dev]'

lint:
	ruff check
	ruff format --check

types:
	mypy

docs: # needs the extra `docs`; writes site/index.html
	mkdocs build --strict

test:
	python -m pytest

ci:
	.ci/run
