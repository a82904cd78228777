"""The spec oracle: what is right at every stage, where a port first goes wrong, and why."""
