"""Makes the stack and its fixtures known to every folder of tests."""

pytest_plugins = ["stack_fixture"]
