"""The server: `app` answers requests, `jobs` does the work, and the page in `page/` uses both. See docs/http-api.md."""
