"""Worker halves of protocols: modules of plain functions `decode` and `encode`, loaded by name."""
