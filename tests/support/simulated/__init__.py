"""The plugin's processes, the provider and the gateway in one thread and one clock, for tests that replay exactly.

Everything that decides is the real thing: use cases, dispatcher, drivers, journal. Replaced is what makes a run of them
unrepeatable: time, threads, chance, and the two ends of the wire. A process does one small thing at a time, so that a
test may let it stand still, vanish, or wake up at any point. Used by tests/chaos/test_run_machine.py.
"""

from __future__ import annotations
