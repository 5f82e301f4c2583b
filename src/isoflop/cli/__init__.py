"""The command line: `isoflop COMMAND`. Reads options, calls the packages below, prints."""
