"""HTTP: the routes, the control plane, the data plane and the servers that carry them."""
