"""Several processes that share one simulation, and workers that run the jobs of a sweep."""
