"""The report: one self-contained page of what the pipeline found."""
