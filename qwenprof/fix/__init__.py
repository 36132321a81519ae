"""The remedy: a convolution whose windows do not overlap, as the linear map it is."""
