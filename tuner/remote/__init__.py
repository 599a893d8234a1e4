"""Clusters: jobs, their dashboard, the doctor."""
