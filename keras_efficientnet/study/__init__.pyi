from .counting import multiply_adds as multiply_adds
