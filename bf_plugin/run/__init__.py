"""One run, from its first step to `end`. `dispatch` starts a driver for each run, on the event loop."""
