"""Jobs as models of the Open Inference Protocol (KServe v2): tensors in, tensors out. Nothing here is HTTP or gRPC."""
