"""What every room stands on: the event loop, worker threads, logs, ids. It knows nothing of runs."""
