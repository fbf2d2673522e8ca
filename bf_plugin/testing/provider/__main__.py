"""`python -m bf_plugin.testing.provider`: the simulator as a process of its own, with the demo brain.

Prints its base URL as the first line and serves until it gets SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from bf_plugin.testing.provider.simulator import ProviderSimulator


def main() -> None:
    """Run until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m bf_plugin.testing.provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each word")
    parser.add_argument("--key", action="append", help="an accepted key, may be repeated; default: any")
    parser.add_argument("--model", action="append", help="an accepted model, may be repeated; default: any")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    simulator = ProviderSimulator(
        delay=options.delay, keys=options.key, models=options.model, host=options.host, port=options.port
    )
    with simulator as provider:
        sys.stdout.write(provider.base_url + "\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
