"""The subcommands of ``oracle``, one file each: its help text and ``run(argv)``."""
