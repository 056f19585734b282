from . import augment as augment
from .sources import DataSet as DataSet
from .sources import from_builder as from_builder
from .sources import load as load
