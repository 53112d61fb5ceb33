# `make check` is the one command before a commit; `make check-embedded` adds the real model.
.PHONY: check check-embedded check-faults format

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest -n 2

check-embedded:
	pytest -m embedded

check-faults:
	python -m tests.faults

format:
	ruff check --fix .
	ruff format .
