"""The runs that a law is fitted to, read from a sweep or from a table of the user."""
