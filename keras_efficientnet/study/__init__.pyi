from .counting import multiply_adds as multiply_adds
from .rows import compound_scales as compound_scales
from .rows import published_networks as published_networks
