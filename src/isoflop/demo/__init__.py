"""The demo: a static page that runs the shipped model in the browser, and the command that serves it."""
