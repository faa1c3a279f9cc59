"""Configuration: texts, variables and flags become typed settings, each with its source."""
