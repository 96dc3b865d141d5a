"""A finished run as a server: the page to drop pictures on, an HTTP API, the Open Inference Protocol, and metrics."""
