# `make check` is the one command before a commit. `make check-slow` adds long tests against the fake
# server, `make check-embedded` the real small model, `make check-vllm` the real vLLM of the
# interpreter that SCALE_VLLM_PYTHON names, `make check-faults` every fault with every command.
.PHONY: check check-slow check-embedded check-vllm check-faults format

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest -n 2

check-slow:
	pytest -n 2 -m slow

check-embedded:
	pytest -m embedded

check-vllm:
	@test -x "$(SCALE_VLLM_PYTHON)" || { echo "SCALE_VLLM_PYTHON names no interpreter that has vLLM: see CONTRIBUTING.md" >&2; exit 1; }
	"$(SCALE_VLLM_PYTHON)" -c "import vllm"
	pytest -m vllm

check-faults:
	python -m tests.faults

format:
	ruff check --fix .
	ruff format .
