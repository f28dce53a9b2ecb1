"""Two gRPC servers behind one interface: on libnghttp2 and on grpcio. Called by :mod:`ext_proc.serving`."""
