"""Searches in MLflow: logging, the registry and `tuner ui`. The only room that imports MLflow."""
