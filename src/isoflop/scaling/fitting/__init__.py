"""From runs to a law: minimization, choice of the form, intervals, and how far the law is trusted."""
