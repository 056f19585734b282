from .recipes import Recipe as Recipe
from .recipes import SmoothedCrossentropy as SmoothedCrossentropy
from .recipes import recipe as recipe
from .run import train as train
from .schedule import WarmupExponentialDecay as WarmupExponentialDecay
