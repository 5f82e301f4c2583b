"""Which variant ships, and its model card."""
