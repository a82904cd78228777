"""Ready dumpers for runtimes, and the names that these give to stages."""
