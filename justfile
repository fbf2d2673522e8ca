# What a contributor types. `pip install rust-just` brings `just`; without it, copy the lines.

python := ".venv/bin/python"
pytest := ".venv/bin/pytest -n auto --dist loadfile"

# List the commands
default:
    @just --list

# Make .venv with everything that tests, lint and documents need, and the commit hooks
setup:
    python3 -m venv .venv
    {{ python }} -m pip install -q "pip>=25.1"
    {{ python }} -m pip install -q --group dev -e . -e hooks/bf-hook-weather
    .venv/bin/pre-commit install

# Run the unit tests: no servers, no processes
unit *arguments:
    .venv/bin/pytest -q {{ arguments }} tests/unit

# Run the tests of the core, or those that are named
test *paths="tests":
    {{ pytest }} {{ paths }}

# Format, then check style, types, the direction of imports and the fragments of the changelog
lint:
    .venv/bin/ruff format .
    .venv/bin/ruff check --fix .
    .venv/bin/lint-imports
    .venv/bin/mypy
    .venv/bin/towncrier build --draft --version next

# Run what the documents say: examples, settings, hosts, errors
docs:
    {{ pytest }} tests/contract -k docs

# Start the demo: a page, a gateway and a simulated provider
demo:
    .venv/bin/bf-plugin demo

# Run all that CI runs
ci:
    bash .ci/run
