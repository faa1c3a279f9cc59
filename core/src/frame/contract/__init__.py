"""The plugin contract's types; import them from `frame.api`."""

API_VERSION = 1
