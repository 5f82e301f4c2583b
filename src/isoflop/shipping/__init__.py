"""Choosing the variant that ships, and its model card."""
