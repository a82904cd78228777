"""Adapters: record dumps from other runtimes, and map their tensor names to stages."""
