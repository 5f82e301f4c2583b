"""The families of classifiers, their weights on disk, and what they cost."""
