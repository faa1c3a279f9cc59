"""What travels between the router and its workers: frames, and the heads of their messages."""
