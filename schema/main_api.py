"""Where the main API is, for the server that answers it, the client that calls it, and messages that name a call."""

PREFIX = "/api/v2/tasks"
