"""What is handed to people: the report, the audit page, the server and its pages."""
