"""``isoflop doctor``: problems of this machine and project, each with its fix."""
