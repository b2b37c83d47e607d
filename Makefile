# The verbs of this project. Each does its own set-up in .venv; nothing else has to be installed by hand.
PYTHON ?= python3
# The environment of the default Python; `make test-all` uses one per Python (.venv-3.x).
VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS := 3.10 3.11 3.12 3.13 3.14
# What pip gets besides the package; test-all leaves the applications to the default Python.
GROUPS_TEST := --group test --group apps
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
# Loops that have wheels for few Pythons; they are measured where they can be had.
PEERS := rsloop zuvloop
PROCESSORS := $(shell nproc)
# Most tests wait for the kernel or for a child: two more at once than there are processors.
TESTERS ?= $(shell expr 2 + $(PROCESSORS))
PARALLEL := -n $(TESTERS) --dist worksteal

.PHONY: demo test test-all test-core asan valgrind bench soak compat api-table lint docs pictures build wheels wheels-check debian clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# The suite has deadlines, and machines are shared: what failed is run once more, one by one. Twice is a failure, and
# anything but failed tests (1), as a run that was interrupted, is one at once.
PYTEST = $(BIN)/python -m pytest -q $(PARALLEL) $(PYTEST_ARGS)
AGAIN = $(BIN)/python -m pytest $(PYTEST_ARGS) --last-failed --last-failed-no-failures=none

# What the other Pythons leave out: the applications, the documentation and the rules of the house; the benchmarks' tool,
# which measures on the default Python; timers over simulated days, injected faults, overload, soak and fuzzing, as what they try is
# plain C; the leak hunt, which counts what that Python allocates; CPython's files beside GLib (tests/cpython runs those that matter
# there, on fewer loops).
CORE = $(addprefix --ignore=tests/,apps docs project bench timers faults overload soak fuzz leaks/test_hunt.py glib/test_cpython.py)

test: debian $(VENV)/.test
	$(PYTEST) || { [ $$? -eq 1 ] && $(AGAIN); }

# What may say something about a Python, on one: make test-core VENV=.venv-3.12 PYTHON=python3.12
# gcc takes a quarter of the time with -Og; what it makes of the C with -O3 is tested on the default Python. Such a
# build is not for measuring.
# Of the monitors poll is left out: a quarter of the tests, for compiled code that the default Python tests.
test-core: export CFLAGS ?= -Og
test-core: export AIOQEMU_TEST_FDMON ?= io_uring,epoll
test-core: debian $(VENV)/.core
	$(PYTEST) $(CORE) || { [ $$? -eq 1 ] && $(AGAIN) $(CORE); }

# Every other Python that is installed here.
test-all: test
	tools/each-python.sh $(filter-out $(shell $(BIN)/python -c 'print("%d.%d" % __import__("sys").version_info[:2])'),$(PYTHONS))

# Errors of memory. A part of the suite on modules that were built with AddressSanitizer and UBSan, which leaves those in
# use as they are. All of it takes hours: make asan ASAN_TESTS=tests PYTEST_ARGS='-o timeout=600'. CHECKS=1: see the script.
ASAN_TESTS ?= tests/uring tests/fdmon tests/transports/test_stream.py tests/transports/test_tls_transport.py
asan: $(VENV)/.test
	tools/sanitized.sh $(BIN)/python $(PARALLEL) $(PYTEST_ARGS) $(ASAN_TESTS)

# The same with valgrind's memcheck and the modules in use, 20 to 50 times slower; forked children are looked at, too.
VALGRIND_TESTS ?= tests/fdmon tests/context tests/transports
valgrind: $(VENV)/.test
	tools/valgrind.sh $(BIN)/python $(PYTEST_ARGS) $(VALGRIND_TESTS)

# The API table of docs/compatibility.md, asked anew of every loop. Of a Python that has it all:
# make api-table VENV=.venv-3.13 PYTHON=python3.13
api-table: $(VENV)/.core $(VENV)/.demo
	$(BIN)/python -m tools.compatibility --write

# Every workload on every loop; hours. For a look: make bench BENCH_ARGS=--quick
bench: debian $(VENV)/.bench
	$(BIN)/python -m bench $(BENCH_ARGS)

# Everything at once for half an hour: make soak SOAK_ARGS="--fdmon epoll --minutes 10"
soak: $(VENV)/.core
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

# Test suites of other projects on the stdlib's loop and on ours; the table goes to docs/compatibility.md.
compat: $(VENV)/.installed
	$(BIN)/python tools/compat.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(STUBTEST)

# Are the stubs of the compiled modules right? Compiled names that are nobody's business outside may lack in them.
STUBTEST = $(BIN)/python -m mypy.stubtest aioqemu_loop --concise --mypy-config-file tools/stubtest/mypy.ini \
	--allowlist tools/stubtest/allowlist --ignore-unused-allowlist \
	--ignore-missing-stub --ignore-disjoint-bases --ignore-positional-only

# The documentation as HTML in build/docs; warnings are errors.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs

# The pictures of docs/performance.md's tables, after these have changed.
pictures: $(VENV)/.docs
	$(BIN)/python -m pip install -q --group plots
	$(BIN)/python -m tools.performance_pictures

# An sdist, and a wheel for every Python that is installed here, in dist/; three minutes each. The second installs them where
# there is no compiler.
wheels: $(VENV)/.dev
	PYTHON=$(abspath $(BIN)/python) tools/build-wheels.sh $(PYTHONS)

wheels-check:
	tools/check-wheels.sh $(PYTHONS)

# The extension modules in place, after a change; incremental.
build: $(VENV)/.installed
	$(GENERATE_C)
	$(BIN)/python -c "from setuptools import setup; setup()" -q build_ext --inplace -j$(PROCESSORS)

# What the tests of real applications need from Debian; only where something is missing and this is root.
debian:
	tools/debian-packages.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"

SOURCES := $(shell find aioqemu_loop -name '*.py[xid]*' -o -name '*.h')

# The C is the same for all Pythons, and written once. Then as many modules are compiled at a time as there are
# processors: pip has no option for that, but setuptools reads a file that a variable names.
GENERATE_C = $(BIN)/python -W ignore tools/generate_c.py

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install -q "setuptools>=77" "Cython>=3.1,<4"
	$(GENERATE_C)
	printf '[build_ext]\nparallel = $(PROCESSORS)\n' >$(VENV)/parallel.cfg
	DIST_EXTRA_CONFIG=$(VENV)/parallel.cfg $(BIN)/python -m pip install -q --no-build-isolation -e .
	touch $@

$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/python -m pip install -q --group bench
	touch $@

$(VENV)/.bench: $(VENV)/.demo
	$(BIN)/python -m pip install -q --group plots
	for peer in $(PEERS); do \
	    $(BIN)/python -m pip install -q --only-binary :all: $$peer 2>/dev/null || echo "$$peer: no wheel for this Python, left out"; \
	done
	touch $@

# PyGObject is built here, which needs what tools/debian-packages.sh installs.
GLIB = $(BIN)/python -m pip install -q --group glib \
	|| echo "PyGObject cannot be had here; the tests of aioqemu_loop.glib will skip"

# For tests/pytest_plugin: one that has the fixture event_loop, and one that makes its loops otherwise but has no loop factories.
OLD_PYTEST_ASYNCIO = for release in 0.23 1.3; do folder=$(VENV)/pytest-asyncio-$$release; [ -d $$folder ] \
	|| $(BIN)/python -m pip install -q --target $$folder "pytest-asyncio==$$release.*" "pytest<9"; done

$(VENV)/.core: $(VENV)/.installed
	$(BIN)/python -m pip install -q --group test
	$(OLD_PYTEST_ASYNCIO)
	$(GLIB)
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install -q $(GROUPS_TEST) --group bench
	$(OLD_PYTEST_ASYNCIO)
	$(GLIB)
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q --group dev
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q --group docs
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info
	find aioqemu_loop -name '*.so' -delete
	find aioqemu_loop -name '*.c' -delete
