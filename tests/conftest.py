"""Makes the stack and its fixtures known to every folder of tests."""

from seamline.connectors import jit_cache

jit_cache.use()  # before anything imports numba

pytest_plugins = ["stack_fixture", "preset_fixture"]
