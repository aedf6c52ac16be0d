# Two commands: `make demo` and `make test`. Both start from a bare clone and set up their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml constraints.txt $(shell find rsk_deploy converters runtime -name '*.py' -o -name '*.pyi' -o -name py.typed -o -path '*/native/*' -type f -o -path '*/c_runtime/*' -type f -o -path '*/c_machines/*' -type f)

.PHONY: demo test lint native test-slow bench clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/python examples/demo.py demo

test: lint native
	$(BIN)/pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z '*.cc' '*.h' '*.inl' '*.c' | xargs -0 $(BIN)/clang-format --dry-run -Werror
	cd .venv && bin/mypy --config-file ../pyproject.toml --cache-dir mypy_cache -p rsk_deploy

# The kernels and the code generator alone, without Python.
native: .venv/installed
	$(BIN)/cmake -S tests/native -B build/native-tests -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/native-tests
	$(BIN)/ctest --test-dir build/native-tests --output-on-failure

# Long fuzz, soak and full-size runs. RSK_FUZZ_SECONDS sets how long each fuzz target runs.
test-slow: .venv/installed
	$(BIN)/pip install -q -c constraints.txt '.[fuzz]'
	$(BIN)/pytest -m slow

# The figures of the README; the machine should be idle.
bench: .venv/installed
	$(BIN)/python benchmarks/onnx_files.py
	$(BIN)/python benchmarks/coreml_files.py
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/lowering.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/c_export.py

.venv/ready:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: python 3.11 or newer is needed (make PYTHON=/path/to/python3)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11 (make PYTHON=/path/to/python3)"; exit 1; }
	@command -v c++ >/dev/null || { echo "no C++ compiler (c++): install one, g++ for instance"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) has no venv module: install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

# The package is tested as users get it: a wheel, not the source tree.
.venv/installed: .venv/ready $(SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --config-settings=cmake.define.RSK_STRICT=ON '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist demo
