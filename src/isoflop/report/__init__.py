"""The HTML report of a project, and the page that compares runs."""
