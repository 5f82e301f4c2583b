"""isoflop: how big should my image classifier be, and how small can I ship it?"""
