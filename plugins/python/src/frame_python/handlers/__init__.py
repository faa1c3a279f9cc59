"""Built-in handlers: modules with a `handle` function, used when a model folder brings none of its own."""
