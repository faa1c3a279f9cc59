"""The model store: where models are, what they are called, who serves them."""
