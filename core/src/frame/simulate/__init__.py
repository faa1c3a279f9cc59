"""The server's own policies with made-up time: what a load would see, before it is there."""
