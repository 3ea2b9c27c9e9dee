# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# venv.sh makes .venv and host-packages.sh sees to the host's programs: both take no time when all is there.
VENV := @tests/tools/venv.sh
HOST := @tests/tools/host-packages.sh
RUN := @tests/tools/run.sh
QUICKSTART := ansible-playbook cloudnebula.hypervisor.quickstart

.PHONY: help demo demo-clean test unit integration lint sanity bench build clean

help: ## Show this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 15

demo: ## Create a real virtual machine with the quickstart playbook (DEMO_ARGS="-e ..." for its variables)
	$(VENV) runtime
	$(RUN) $(QUICKSTART) $(DEMO_ARGS)

demo-clean: ## Remove everything that "make demo" made
	$(VENV) runtime
	$(RUN) $(QUICKSTART) -e quickstart_state=absent $(DEMO_ARGS)

test: ## Run all tests: unit tests, then real QEMU with real guests (PYTEST_ARGS="-k ..." to choose)
	$(VENV) runtime test
	$(HOST) run test guest
	$(RUN) pytest tests/unit tests/integration $(PYTEST_ARGS)

unit: ## Run the unit tests, which need nothing of the host but Python
	$(VENV) runtime test
	$(RUN) pytest tests/unit $(PYTEST_ARGS)

integration: ## Run the tests with real QEMU and real guests
	$(VENV) runtime test
	$(HOST) run test guest
	$(RUN) pytest tests/integration $(PYTEST_ARGS)

lint: ## Check style, types, documentation and changelog
	$(VENV) runtime test lint
	$(RUN) tests/tools/lint.sh

sanity: ## Run ansible-test sanity on a copy of the tree, without any ignore file
	$(VENV) runtime
	$(RUN) python tests/tools/sanity.py $(SANITY_ARGS)

bench: ## Measure the life cycle of machines, the inventory and downloads (BENCH_ARGS="--rounds N")
	$(VENV) runtime
	$(HOST) run
	$(RUN) python tests/benchmarks/lifecycle.py $(BENCH_ARGS)
	$(RUN) python tests/benchmarks/fleet.py $(BENCH_ARGS)
	$(RUN) python tests/benchmarks/inventory.py $(BENCH_ARGS)
	$(RUN) python tests/benchmarks/images.py $(BENCH_ARGS)

build: ## Build the collection artifact
	$(VENV) runtime
	$(RUN) ansible-galaxy collection build --force

clean: ## Remove .venv, caches and what was built
	rm -rf .venv .ansible .mypy_cache .pytest_cache .ruff_cache tests/output
	rm -f changelogs/.plugin-cache.yaml cloudnebula-hypervisor-*.tar.gz
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
