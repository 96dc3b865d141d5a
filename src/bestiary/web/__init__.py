"""Parts shared by both web servers: request guard, sockets, timeouts, error handlers, metrics, static pages."""
