"""Frame's engine for TensorFlow SavedModels."""
