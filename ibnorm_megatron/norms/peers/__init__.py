"""The norms that IBNorm is compared with, each from its paper's formula; ``configs`` registers them by name."""
