"""LEAF. The Worker SDK: a gRPC server bound to one subtask, and the files `clawplane init` writes."""
