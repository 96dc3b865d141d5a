"""Work on a Ray cluster: predictions, audits, features, searches and training beyond one process (extra `cluster`)."""
