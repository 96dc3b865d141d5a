"""The review page: doubtful pictures one by one, and what a person decides about them."""
