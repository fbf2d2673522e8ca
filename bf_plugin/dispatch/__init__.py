"""Which process drives a run. `runs` hands runs over to a dispatcher and signals to their drivers."""
