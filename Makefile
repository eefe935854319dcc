# The checks of .ci/run, one by one, in the virtual environment that is active.
.PHONY: setup lint types test coverage docs ci release

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

coverage: # of the code by all tests but those of the command line, most of which start processes of their own
	python -m pytest -n auto --cov=fedsim --cov-report=term:skip-covered --ignore=tests/cli

ci:
	.ci/run

release: # dist/*.whl and dist/*.tar.gz, and a run with the wheel in an environment of its own
	rm -rf dist build
	python -m build
	rm -rf dist/venv && python -m venv dist/venv
	dist/venv/bin/python -m pip install -q -c constraints.txt dist/*.whl
	cd dist && venv/bin/fedsim run rounds=1 hydra.run.dir=first && rm -rf venv first
	ls -l dist
