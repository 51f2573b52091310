"""The functional graph of a backbone, which can be built more than once."""
