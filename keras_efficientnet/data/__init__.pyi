from . import augment as augment
from .dataset import ArrayExamples as ArrayExamples
from .dataset import Dataset as Dataset
from .pipeline import Augmentation as Augmentation
from .pipeline import augmented as augmented
from .pipeline import evaluation_arrays as evaluation_arrays
from .sources import load as load
from .tfds import from_builder as from_builder
