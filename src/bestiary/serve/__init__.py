"""The prediction server: its page, its HTTP API and the Open Inference Protocol."""
