"""The checks of `bf-plugin doctor`, which calls `checkup`. Each part that can be wrong has a module."""
