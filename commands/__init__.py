"""The commands of ``fame``: parse, make a config, call a stage. Only ``cli.py`` imports them."""
