"""What the server decides, as pure functions of data and `now`: no I/O, no clock, no threads."""
