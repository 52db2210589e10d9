"""MLflow, figures, the terminal view and the report."""
