"""``isoflop launch``: stages that run at the same time, on one machine or a cluster."""
