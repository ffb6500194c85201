"""An OpenAI-compatible HTTP server for models of one's own, and the web page that it serves."""
