"""One run, from its first step to `end`. `dispatch` starts a driver for each, on the event loop."""
