"""MLflow alone."""
