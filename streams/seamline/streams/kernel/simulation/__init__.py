"""The whole plane in one process, under one seed: what runs in production, on a model of the world.

`model`: what must come out, in plain Python. `broker`, `venue`: the world. `connector`, `backfill`,
`worker`, `reader`: the processes, which drive the kernel's own code. `plan`: one seed's settings
and its list of acts. `world`: what each act does. `checks`: the invariants. `runs`: all acts, then
calm, and the account of everything. `shrink`: a shorter list of acts that fails alike. `minutes`,
`story`: a run as a person reads it.

Start with `runs.py`, then `world.py` and `checks.py`.
"""
