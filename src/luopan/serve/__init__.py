"""The HTTP server: models behind the OpenAI API, and the page that talks to it."""
