"""Releases: what ships, with a manifest and a signature, and their verification."""
