"""Searches as jobs on a Ray cluster, its dashboard, and `tuner doctor`."""
