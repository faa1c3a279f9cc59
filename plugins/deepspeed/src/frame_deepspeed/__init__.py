"""Frame's engine for large models: DeepSpeed on groups of several ranks."""
