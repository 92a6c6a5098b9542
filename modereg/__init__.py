"""modereg: mutual-information regularisation that keeps the behaviours of a generative policy."""
