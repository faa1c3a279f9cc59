"""Frame's engine for TorchScript archives and torch.export programs."""
