"""The demo: a static page that runs the shipped model in the browser, and its local server."""
