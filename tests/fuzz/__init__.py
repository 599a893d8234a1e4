"""`make fuzz`: whatever a user types and whatever lies in a file, the answer is one sentence or a right result.

    make fuzz ROUNDS=10000 SEED=1
    .venv/bin/python -m tests.fuzz --only history --first 123 --rounds 1    # one input again

``targets``   every entry point: given a source of random numbers, each makes one input and tries it
``corpus``    the right files that the inputs are made of
``mutate``    how a right value becomes a wrong one
``nonsense``  what must not be accepted, written down; it is tried besides
``trial``     what counts as a finding
"""
