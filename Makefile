# make demo: four MPI ranks draw pictures.   make test: every test on 1 process and 1, 2, 4, 8 ranks.
# Both make .venv first if there is none. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= pint_run
RANKS  ?= 4
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A rank that can't go on ends the job; the time-out ends a job that does not.
MPIEXEC := timeout --kill-after=10 900 $(BIN)/mpiexec

.PHONY: demo test test-one test-mpi test-gpu kills fuzz grammar faults soak pipelines lint docs clean

demo: $(VENV)/.made
	$(MPIEXEC) -n $(RANKS) $(BIN)/pint-diffusion sample --steps 64 --slices 8 --samples 16 \
	    --placement slice --warmup --verify --out $(OUT) --force

test: test-one test-mpi

test-one test-mpi test-gpu: export OMP_NUM_THREADS = 1

# Three tests at a time, since many wait, and then, one at a time, those that a test beside them could
# disturb.
test-one: $(VENV)/.made-test
	timeout --kill-after=10 1200 $(BIN)/python -m pytest -q -n 3 -m "not mpi and not alone and not gpu"
	timeout --kill-after=10 900 $(BIN)/python -m pytest -q -m "alone and not mpi and not gpu"

test-mpi: $(VENV)/.made-test
	for n in 1 2 4 8; do echo "== $$n ranks"; $(MPIEXEC) -n $$n $(BIN)/python -m mpi4py -m pytest \
	    -q -x -p no:cacheprovider --with-mpi --ranks $$n -m "mpi and not gpu" || exit 1; done

# On a machine with a CUDA device: one process, and two ranks on one card.
test-gpu: $(VENV)/.made-test
	timeout --kill-after=10 900 $(BIN)/python -m pytest -q -m gpu tests/gpu

# 200 kills at random moments, each followed by a resume, which is killed too or let go on.
kills: $(VENV)/.made-test
	KILLS=200 timeout --kill-after=10 7200 $(BIN)/python -m pytest -q tests/system/test_resume.py -k killed

# 100000 changed files, read in processes of their own.
fuzz: $(VENV)/.made-test
	FUZZ=100000 timeout --kill-after=10 7200 $(BIN)/python -m pytest -q -s tests/system/test_fuzz.py

# 20000 command lines and YAML files, drawn from the settings, on one rank; 200 on four.
grammar: export OMP_NUM_THREADS = 1
grammar: $(VENV)/.made-test
	GRAMMAR=20000 timeout --kill-after=10 14400 $(BIN)/python -m pytest -q -s \
	    tests/system/test_grammar.py -m "not mpi"
	GRAMMAR_ON_RANKS=200 timeout --kill-after=10 7200 $(BIN)/mpiexec -n 4 $(BIN)/python -m mpi4py \
	    -m pytest -q -s -p no:cacheprovider --with-mpi --ranks 4 -m mpi tests/system/test_grammar.py

# Every fault at every moment: on one host four at a time, then on emulated hosts. How many ended how
# is printed at the end.
faults: export OMP_NUM_THREADS = 1
faults: $(VENV)/.made-test
	FAULTS=1 timeout --kill-after=10 7200 $(BIN)/python -m pytest -q -n 4 -m "not alone" \
	    tests/system/test_fault_matrix.py
	FAULTS=1 timeout --kill-after=10 3600 $(BIN)/python -m pytest -q -m alone \
	    tests/system/test_fault_matrix.py

# 2000 runs in one process, 300 on two ranks, and runs of many iterations: nothing grows.
soak: $(VENV)/.made-test
	SOAK=1 timeout --kill-after=10 7200 $(BIN)/python -m pytest -q -s tests/system/test_soak.py

# Families and schedulers of diffusers, on RANKS ranks, against the untouched pipeline; writes
# docs/pipelines.md.
pipelines: $(VENV)/.made-test
	cd tests && OMP_NUM_THREADS=1 timeout --kill-after=10 3600 ../$(BIN)/mpiexec -n $(RANKS) \
	    ../$(BIN)/python -m helpers.conformance

lint: $(VENV)/.made-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.made
	$(PIP) -e '.[docs]'
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[mpich,diffusers]'
	touch $@

$(VENV)/.made-test: $(VENV)/.made
	$(PIP) -e '.[mpich,diffusers,pipelines,test]'
	touch $@

clean:
	rm -rf $(VENV) pint_run docs/_build build *.egg-info
