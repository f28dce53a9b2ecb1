"""Who gets what, from a request's headers and the compiled document. Pure; called by :mod:`ext_proc.service`."""
