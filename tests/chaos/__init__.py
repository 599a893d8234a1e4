"""`make chaos`: small searches, disturbed at random moments until they end, and what must hold then.

    make chaos ROUNDS=200 SEED=1
    .venv/bin/python -m tests.chaos --seed 1 --first 17 --rounds 1     # one round again

``plan``        what a round does: the search, its places, one to three disturbances; all of it drawn from the seed
``disturb``     the disturbances: signals, kills, a storage that goes away, a full disk, a clock that jumps
``drivers``     starts drivers, forked from a process that has imported what a driver needs
``play``        one round: starts, disturbs and resumes a search until it ends
``invariants``  what must hold then
"""
