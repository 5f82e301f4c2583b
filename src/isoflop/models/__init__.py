"""The families of networks: architecture, initialization, files and costs (parameters, MACs, FLOPs)."""
