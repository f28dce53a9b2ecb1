"""Several processes as one server: a supervisor, its workers, what they report. Called by :mod:`ext_proc.server`."""
