"""A gateway with the demo's chat page and messaging of its own, for the tests that kill it as a whole."""

from __future__ import annotations

from bf_plugin.demo.gateway import DemoGateway

application = DemoGateway(
    {"model": "gpt-test", "instructions": "Be brief.", "provider": "Simulated", "about": "A test."}
)
