from . import augment as augment
from .dataset import DataSet as DataSet
from .sources import load as load
from .tfds import from_builder as from_builder
