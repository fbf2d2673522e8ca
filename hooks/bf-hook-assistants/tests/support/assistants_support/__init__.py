"""A server that speaks the Assistants v2 API, for the tests."""
