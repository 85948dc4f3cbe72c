"""One file a command: options, help, what is printed."""
