"""What both web servers share: request guard, sockets, timeouts, errors, metrics."""
